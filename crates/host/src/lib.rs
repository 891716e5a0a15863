//! The machine as components see it: clocks, randomness, cores, small files, logging, and the
//! checked config.
//!
//! Everything here is handed in, never taken: a test or a simulation gives other clocks, other
//! randomness and `Cpu::Inline`. Host knows no repository, no region and no engine.

pub mod allocator;
pub mod buffers;
pub mod clock;
pub mod codes;
pub mod config;
pub mod cpu;
pub mod duration;
pub mod facts;
pub mod files;
pub mod lock;
pub mod log;
pub mod output;
pub mod point_name;
pub mod rate;
pub mod region_url;
pub mod rng;
pub mod size;
pub mod time_spec;

pub use buffers::Buffers;
pub use clock::{Clock, Monotonic, NtpState, SimClock, SystemClock};
pub use codes::{Code, Exit};
pub use cpu::{Cpu, Job};
pub use facts::HostFacts;
pub use rate::{Pace, Rate};
pub use region_url::{Checksum, RegionUrl, RegionUrlError, S3Url};
pub use rng::{Rng, RngExt, SystemRng, TestRng};
pub use size::{ByteSize, KeepFree};
