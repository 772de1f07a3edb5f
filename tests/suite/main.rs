//! The same tasks against one process and against four, on embedded stores and on servers.

#[cfg(test)]
mod tasks;
