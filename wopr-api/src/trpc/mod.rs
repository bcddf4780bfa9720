//! tRPC v11 on the wire, without a transformer: single and batched calls, queries over GET, mutations over POST.
//!
//! [`Procedures`] is the list of what exists; each entry says who may call it. `serve` speaks the protocol.

mod input;
mod procedures;
mod serve;

pub use self::input::NoInput;
pub(crate) use self::input::invalid;
pub use self::procedures::{Access, Context, Kind, Procedure, Procedures};
pub(crate) use self::serve::router;
