//! The machine under test: scenarios that are read as prose, and thousands of random histories of a simulated world.

mod audit;
mod delaying;
mod dice;
mod doubting;
mod driver;
mod earlier;
mod fixture;
mod forking;
mod histories;
mod holding;
mod judging;
mod looking_back;
mod nursery;
mod origin;
mod scenarios;
mod slices;
mod stopping;
mod summing;
mod trouble;
mod world;
