//! The demo's application: a thread that commits orders until it is told to close.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

pub(super) use tidemark_engine_sqlite::sample::Order;
use tidemark_engine_sqlite::sample::{SampleError, Shop, read_orders};
use tidemark_host::{Clock as _, Rng as _, SystemClock, SystemRng};

use crate::commands::Failure;

const EVERY: Duration = Duration::from_millis(20);
const ITEMS: [&str; 6] = [
    "tide table",
    "sextant",
    "anchor",
    "barometer",
    "rope, 30 m",
    "lantern",
];

/// An open shop.
pub(super) struct LiveShop {
    closing: Arc<AtomicBool>,
    clerk: JoinHandle<Result<Vec<Order>, SampleError>>,
}

impl LiveShop {
    /// Makes the database and begins to take orders.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let mut shop = Shop::create(path).map_err(sample)?;
        let closing = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&closing);
        let clerk = std::thread::spawn(move || {
            let mut orders: Vec<Order> = Vec::new();
            let mut receipt = vec![0u8; 700];
            while !closed.load(Ordering::Relaxed) {
                SystemRng.fill(&mut receipt);
                let number = orders.len();
                let order = Order {
                    id: i64::try_from(number).unwrap_or(i64::MAX).saturating_add(1),
                    placed_at: SystemClock.now(),
                    item: ITEMS
                        .get(number % ITEMS.len())
                        .copied()
                        .unwrap_or_default()
                        .to_owned(),
                };
                // Microseconds are what the database keeps.
                let order = Order {
                    placed_at: jiff::Timestamp::from_microsecond(order.placed_at.as_microsecond())
                        .unwrap_or(order.placed_at),
                    ..order
                };
                shop.place(&order, &receipt)?;
                orders.push(order);
                std::thread::sleep(EVERY);
            }
            Ok(orders)
        });
        Ok(Self { closing, clerk })
    }

    /// Stops; every order that was committed.
    pub(super) fn close(self) -> Result<Vec<Order>, Failure> {
        self.closing.store(true, Ordering::Relaxed);
        let ended = self.clerk.join();
        let ended = ended.map_err(|_panic| Failure::Demo {
            what: "the shop panicked".to_owned(),
        });
        ended?.map_err(sample)
    }
}

/// The orders of a database, and what integrity_check says.
pub(super) fn read(path: &Path) -> Result<(String, Vec<Order>), Failure> {
    read_orders(path).map_err(sample)
}

fn sample(error: SampleError) -> Failure {
    Failure::Demo {
        what: error.to_string(),
    }
}
