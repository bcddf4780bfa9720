//! Bots: what should run, what runs, and the way from one to the other.
//!
//! - What the owner wants is a row, written with its reason to be charged in one transaction; the answer comes at once.
//! - One executor acts on a bot at a time, under a lease in the database. It compares what is wanted with what the
//!   engine says ([`planner`]), does one step after another, and records what it saw. Every step may be done twice, so
//!   a crash at any point costs a repetition.
//! - The account's standing goes before the owner's wish: a suspended tenant's bots are stopped with their volumes kept,
//!   run again when it returns, and are destroyed when the retention is over.
//! - A bot is charged for every day (UTC) on which it is to run and may: its runtime, its resource tier, its storage
//!   tier; on the day it was made for the hours that are left. A stopped or suspended bot costs nothing.
//!
//! [`Fleet`] is the handle; [`ContainerHost`] is the engine it needs.

mod charging;
pub mod container;
mod error;
mod executor;
mod exposure;
mod image;
mod logs;
mod model;
mod network;
pub mod planner;
mod ports;
mod repository;
mod service;
mod settings;
mod sweep;
pub mod tiers;
mod updates;

pub use self::charging::ChargeReport;
pub use self::error::{FleetError, HostError};
pub use self::executor::Outcome;
pub use self::exposure::host_label;
pub use self::image::{DEFAULT_REGISTRY, ImageAllowList, ImageDigest, ImageReference, InvalidImage};
pub use self::logs::{LogLevel, LogLine};
pub use self::model::{Bot, BotChange, BotSpec, DesiredState, NewBot, Permission, Phase, Seen};
pub use self::network::{InvalidNetworkRange, NetworkRange, Subnet};
pub use self::ports::{
    ContainerHealth, ContainerHost, ContainerState, ContainerStats, Inventory, Labelled, Observed, ObservedContainer,
    RawLogLine,
};
pub use self::service::{Deadlines, Fleet, FleetConfig};
pub use self::settings::{BotEnv, BotName, Discovery, InvalidSetting, ReleaseChannel, RestartPolicy, UpdatePolicy};
pub use self::sweep::SweepReport;
pub use self::updates::{ImageStatus, Update};
