//! What the supervisor looks at now and then: READY, the status line, the clocks, failure domains, and whether
//! everything moves that the watchdog's keep-alive promises.

use std::time::Duration;

use tidemark_host::codes;

use super::clock_watch::{self, Change};
use super::shippers;
use super::start::Running;
use crate::systemd;

/// A capture turn that takes longer hangs.
const TURN_MAX: Duration = Duration::from_secs(120);
/// Whom an alert about the machine is about.
const AGENT: &str = "agent";

impl Running {
    /// READY, the status line, the clocks, the watchdog.
    pub(super) fn look(&mut self) {
        self.look_at_the_clock();
        self.domains.tell(&self.links, &self.shared.board);
        crate::objectives::look(&self.shared.board, self.shared.clock.now());
        if !self.ready && systemd::is_ready(&self.shared.board, self.configured) {
            self.ready = true;
            systemd::ready();
            tracing::info!("ready: every source is captured, or has said why not");
        }
        let line = systemd::status_line(&self.shared.board, self.shared.clock.now());
        if line != self.line {
            systemd::status(&line);
            self.line = line;
        }
        let now = self.shared.clock.monotonic();
        self.remind(now);
        self.filling.look(now, self.shared.room.usage().bytes());
        let shippers_move = self.shippers_move();
        if let Some(every) = self.watchdog
            && now.since(self.alive_at) >= every / 3
            && shippers_move
            && self.captures_move()
        {
            self.alive_at = now;
            systemd::alive();
        }
    }

    fn look_at_the_clock(&mut self) {
        let clock = &self.shared.clock;
        let board = &self.shared.board;
        let written = board.read(|sources, _, _| {
            let points = sources.values().filter_map(|live| live.point_at);
            points.max()
        });
        let wall = clock.now();
        match self.clock_watch.look(wall, clock.monotonic(), written) {
            Some(Change::SteppedBack { by, until }) => {
                let text = clock_watch::text(by, until);
                board.alert(codes::CLOCK_STEPPED.id, AGENT, &text, wall);
            }
            Some(Change::CaughtUp) => board.clear(codes::CLOCK_STEPPED.id, AGENT),
            None => {}
        }
    }

    /// Whether no capture thread hangs. The tasks show by this very look that the runtime turns.
    fn captures_move(&self) -> bool {
        self.pool
            .as_ref()
            .is_some_and(|pool| pool.longest_turn() < TURN_MAX)
    }

    /// Names the shippers that don't move. Whether none hangs for so long that a start may help.
    fn shippers_move(&mut self) -> bool {
        let (clock, board) = (&self.shared.clock, &self.shared.board);
        let now = clock.monotonic();
        let watch = &mut self.shippers;
        let stuck = board.read(|sources, regions, _| watch.look(sources, regions, now));
        let code = codes::SHIPPER_HANGS.id;
        for link in &self.links {
            let name = &link.name;
            match stuck.iter().find(|stuck| stuck.region == *name) {
                Some(stuck) => {
                    board.alert(code, name.as_str(), &shippers::text(stuck), clock.now());
                }
                None => board.clear(code, name.as_str()),
            }
        }
        !stuck.iter().any(|stuck| self.shippers.hangs(stuck))
    }
}
