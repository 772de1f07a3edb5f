//! The same tasks against one process and against four, on embedded stores and on servers.

/// Makes two tests of each case: one process on embedded stores, and four processes on servers.
#[cfg(test)]
macro_rules! both_ways {
    ($($case:ident)*) => {
        $(
            mod $case {
                use mar_tests::{Options, Shape, Stores};

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn in_one_process() -> anyhow::Result<()> {
                    super::$case(Options::new(Shape::One, Stores::Embedded)).await
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn in_four_processes() -> anyhow::Result<()> {
                    super::$case(Options::new(Shape::Four, Stores::Servers)).await
                }
            }
        )*
    };
}

#[cfg(test)]
mod alone;
#[cfg(test)]
mod answers;
#[cfg(test)]
mod approving;
#[cfg(test)]
mod budgets;
#[cfg(test)]
mod callers;
#[cfg(test)]
mod deadlines;
#[cfg(test)]
mod delegating;
#[cfg(test)]
mod doubting;
#[cfg(test)]
mod erasing;
#[cfg(test)]
mod expiring;
#[cfg(test)]
mod following;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod forking;
#[cfg(test)]
mod history;
#[cfg(test)]
mod holding;
#[cfg(test)]
mod hooking;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod local;
#[cfg(test)]
mod mcp;
#[cfg(test)]
mod otlp;
#[cfg(test)]
mod pooling;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod repeating;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod retaining;
#[cfg(test)]
mod scripts;
#[cfg(test)]
mod seals;
#[cfg(test)]
mod secured;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod storing;
#[cfg(test)]
mod tasks;
#[cfg(test)]
mod trace;
#[cfg(test)]
mod uploading;
#[cfg(test)]
mod verifying;
