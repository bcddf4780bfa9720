//! Processes are killed at random points, and nothing is lost, doubled or left open.
//!
//! | Variable | |
//! |---|---|
//! | `WOPR_CRASH_SCHEDULES` | how many schedules each test runs; 8 unless given, 2 of those with a container engine |
//! | `WOPR_CRASH_SEED` | runs the one schedule that a failure named |
//! | `WOPR_CRASH_AT_ONCE` | how many run at once; 8 unless given, 2 of those with a container engine |
//!
//! A seed decides what is done, in which order messages arrive and when a process is killed. How far the process had
//! come by then is the machine's to say, so a seed that failed may have to be run more than once.

#![expect(clippy::similar_names, reason = "seed and seen, held and hold are what they are called")]

mod books;
mod fleet;
mod gateway;
mod holds;
mod program;
mod schedule;
mod webhooks;
