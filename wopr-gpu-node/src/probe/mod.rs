//! What is looked at: the cards through their driver, and the services over HTTP.
//!
//! A driver may hang for ever inside a call. So it gets an operating system's thread of its own ([`Monitor::start`]) and
//! says before each call until when it will be heard of again; whoever asks for the cards only reads what was last said,
//! and is told how long the driver has been silent once it is overdue.

pub mod fake;
pub mod nvml;
pub(crate) mod service;
pub(crate) mod wav;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use wopr_core::protocol::gpu::{GpuMode, GpuReading};

/// How long a call of the driver may take. A heartbeat must go out within two seconds of a driver that hangs.
const CALL_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Why nothing can be read, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoGpu(pub String);

/// What a driver read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cards {
    /// The driver's version.
    pub driver_version: String,
    /// The cards.
    pub gpus: Vec<GpuReading>,
}

/// A driver of cards. Its methods may block for ever.
pub trait GpuProbe: Send + 'static {
    /// Opens the driver and tells `listener` what it reads, again and again, until it is told to stop.
    ///
    /// # Errors
    /// When there is no driver or no card, or when they are lost; it is called again later.
    fn watch(&mut self, listener: &Listener) -> Result<(), NoGpu>;
}

/// What is known of the driver.
#[derive(Debug)]
struct Heard {
    mode: Option<GpuMode>,
    last: Instant,
    /// It is overdue after this.
    next_by: Instant,
}

/// The driver's side of a [`Monitor`].
#[derive(Debug)]
pub struct Listener {
    heard: Arc<Mutex<Heard>>,
    changed: watch::Sender<u64>,
    stop: mpsc::Receiver<()>,
    interval: Duration,
}

impl Listener {
    /// Takes a reading.
    pub fn read(&self, cards: Cards) {
        self.tell(GpuMode::Nvidia { driver_version: cards.driver_version, gpus: cards.gpus });
    }

    /// Between two readings.
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// Waits until the next reading is due; `false` when it is to stop.
    pub fn pause(&self) -> bool {
        self.expect_within(self.interval);
        let stopped = !matches!(self.stop.recv_timeout(self.interval), Err(RecvTimeoutError::Timeout));
        self.expect_within(Duration::ZERO);
        !stopped
    }

    /// Says that a call may take `time`, and the usual bit longer, without anything being wrong.
    pub fn expect_within(&self, time: Duration) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.last = Instant::now();
        heard.next_by = heard.last + time + CALL_TIMEOUT;
    }

    /// Whether it is to stop.
    pub fn is_stopped(&self) -> bool {
        !matches!(self.stop.try_recv(), Err(mpsc::TryRecvError::Empty))
    }

    fn tell(&self, mode: GpuMode) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.last = Instant::now();
        heard.next_by = heard.last + CALL_TIMEOUT;
        heard.mode = Some(mode);
        drop(heard);
        self.changed.send_modify(|readings| *readings = readings.wrapping_add(1));
    }
}

/// Reads the cards from its own thread. Dropping it asks the thread to stop and waits for nothing.
#[derive(Debug)]
pub struct Monitor {
    heard: Arc<Mutex<Heard>>,
    changed: watch::Receiver<u64>,
    _stop: mpsc::Sender<()>,
}

impl Monitor {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(mut probe: impl GpuProbe, interval: Duration) -> std::io::Result<Self> {
        let now = Instant::now();
        let heard = Arc::new(Mutex::new(Heard { mode: None, last: now, next_by: now + CALL_TIMEOUT }));
        let (changed, readings) = watch::channel(0);
        let (stop, stopped) = mpsc::channel();
        let listener = Listener { heard: Arc::clone(&heard), changed, stop: stopped, interval };
        // Never joined: a thread that hangs inside the driver would take whoever waits for it along.
        std::thread::Builder::new().name("gpu".to_owned()).spawn(move || {
            loop {
                match probe.watch(&listener) {
                    Ok(()) => {}
                    Err(NoGpu(reason)) => listener.tell(GpuMode::Cpu { reason }),
                }
                if !listener.pause() {
                    return;
                }
            }
        })?;
        Ok(Self { heard, changed: readings, _stop: stop })
    }

    /// What the node computes with, as far as is known now. Never waits.
    pub fn mode(&self) -> GpuMode {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match &heard.mode {
            Some(mode) if now <= heard.next_by => mode.clone(),
            None if now <= heard.next_by => GpuMode::Cpu { reason: "the driver was not asked yet".to_owned() },
            _ => GpuMode::Unresponsive { for_s: now.saturating_duration_since(heard.last).as_secs() },
        }
    }

    /// Waits until the driver has been heard once or is overdue.
    pub(crate) async fn first(&self) {
        let mut changed = self.changed.clone();
        // An error says that the thread has ended, which is nothing to wait for either.
        let _heard = tokio::time::timeout(CALL_TIMEOUT, changed.wait_for(|readings| *readings > 0)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeGpu;
    use super::*;

    #[tokio::test]
    async fn a_driver_that_hangs_for_ever_is_overdue_and_delays_nobody() {
        let started = Instant::now();
        let monitor = Monitor::start(FakeGpu::hanging(), Duration::from_secs(10)).unwrap();
        assert!(matches!(monitor.mode(), GpuMode::Cpu { .. }), "not overdue yet");
        monitor.first().await;
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        let GpuMode::Unresponsive { for_s } = monitor.mode() else { panic!("{:?}", monitor.mode()) };
        assert!(for_s <= started.elapsed().as_secs());
    }

    #[tokio::test]
    async fn no_card_is_a_mode_and_a_card_that_comes_later_is_seen() {
        let (gpu, control) = FakeGpu::new();
        control.fail("no driver");
        let monitor = Monitor::start(gpu, Duration::from_millis(5)).unwrap();
        monitor.first().await;
        assert_eq!(monitor.mode(), GpuMode::Cpu { reason: "no driver".to_owned() });
        control.show(vec![FakeGpu::card(0)]);
        let mut changed = monitor.changed.clone();
        while !matches!(monitor.mode(), GpuMode::Nvidia { .. }) {
            changed.changed().await.unwrap();
        }
        let GpuMode::Nvidia { gpus, .. } = monitor.mode() else { panic!("just seen") };
        assert_eq!(gpus, [FakeGpu::card(0)]);
        // It worked, and then it hangs: told from the silence, after the last reading.
        control.hang();
        while !matches!(monitor.mode(), GpuMode::Unresponsive { .. }) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
