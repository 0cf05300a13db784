//! The connections of a listener: what each is waited for, and which one goes where there is no room for another, or for
//! an answer in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::server::kit::limits::Limits;
use crate::server::kit::pace::{Lag, Least, Pace};

/// One in so many connections is not to be in a call: there is always one that can go for a newcomer.
const FREE_SHARE: usize = 8;

/// AllSeats connections of a listener.
pub struct Seats {
    most: usize,
    /// Bytes of answers in memory, of all connections.
    answers_bytes: u64,
    least: Least,
    all: Mutex<AllSeats>,
}

#[derive(Default)]
struct AllSeats {
    next: u64,
    seats: HashMap<u64, SeatState>,
    /// Those in a call, and the bytes that are held by all.
    calls: usize,
    held: u64,
}

/// A connection, until dropped.
pub struct Seat {
    seats: Arc<Seats>,
    id: u64,
    over: Arc<Notify>,
}

struct SeatState {
    /// Since when the client owes a request's header; `None` while a request is answered.
    idle: Option<Instant>,
    write: Pace,
    /// Bytes of an answer in memory.
    held: u64,
    /// The client may still be sending a body that nobody reads.
    unread: bool,
    over: Arc<Notify>,
}

impl SeatState {
    /// Returns how far behind its client is, where it is the client who is waited for.
    fn behind(&self, now: Instant) -> Option<Lag> {
        if self.write.is_waiting() {
            return Some(self.write.behind(now)).filter(Lag::is_slow);
        }
        self.idle.map(|since| Lag::idle(now.saturating_duration_since(since)))
    }
}

impl AllSeats {
    fn remove(&mut self, id: u64) -> Option<SeatState> {
        let state = self.seats.remove(&id)?;
        self.calls -= usize::from(state.idle.is_none());
        self.held -= state.held;
        Some(state)
    }

    /// Ends the connection whose client gets on worst; whether there was one.
    fn end_worst(&mut self, may_end: impl Fn(&SeatState) -> bool) -> bool {
        let now = Instant::now();
        let seats = self.seats.iter().filter(|(_, state)| may_end(state));
        let behind = seats.filter_map(|(id, state)| Some((state.behind(now)?, u64::MAX - id)));
        let worst = behind.max().and_then(|(_, id)| self.remove(u64::MAX - id));
        worst.inspect(|state| state.over.notify_one()).is_some()
    }
}

impl Seats {
    /// Room for `most` connections.
    pub fn new(most: usize, limits: &Limits) -> Arc<Seats> {
        let (answers_bytes, least) = (limits.answers_bytes, limits.answer);
        Arc::new(Seats { most, answers_bytes, least, all: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, AllSeats> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection: where all are taken, that of the one whose client has longest done nothing. `None`
    /// where all are at work.
    pub fn enter(self: &Arc<Self>) -> Option<Seat> {
        let mut all = self.lock();
        if all.seats.len() >= self.most && !all.end_worst(|_| true) {
            return None;
        }
        let (id, over) = (all.next, Arc::<Notify>::default());
        all.next += 1;
        let idle = Some(Instant::now());
        all.seats.insert(id, SeatState { idle, write: Pace::default(), held: 0, unread: false, over: over.clone() });
        Some(Seat { seats: self.clone(), id, over })
    }

    /// Ends the connection whose client has longest done nothing; whether there was one.
    pub fn end_worst(&self) -> bool {
        self.lock().end_worst(|_| true)
    }
}

impl Seat {
    /// Does something with the state, unless the connection is over.
    fn with<T>(&self, act: impl FnOnce(&mut SeatState, Instant) -> T) -> Option<T> {
        let mut all = self.seats.lock();
        all.seats.get_mut(&self.id).map(|state| act(state, Instant::now()))
    }

    /// Waits until the place is wanted by another.
    pub async fn over(&self) {
        self.over.notified().await;
    }

    /// A request's header is there; `false` where too many are being answered.
    pub fn begins_call(&self, has_body: bool) -> bool {
        let all = &mut *self.seats.lock();
        if let Some(state) = all.seats.get_mut(&self.id) {
            all.calls += usize::from(state.idle.take().is_some());
            state.unread = has_body;
        }
        all.calls <= self.seats.most - self.seats.most / FREE_SHARE
    }

    /// The client has sent all of the request's body.
    pub fn has_sent_all(&self) {
        self.with(|state, _| state.unread = false);
    }

    /// Returns whether the client may be sending what nobody reads.
    pub fn is_unread(&self) -> bool {
        self.with(|state, _| state.unread).unwrap_or(false)
    }

    /// Counts an answer in memory until it is written, and ends slow readers of others for it; `false` where there is no
    /// room.
    pub fn holds(&self, bytes: u64) -> bool {
        let all = &mut *self.seats.lock();
        while all.held.saturating_add(bytes) > self.seats.answers_bytes {
            if !all.end_worst(|state| state.held > 0 && state.write.is_waiting()) {
                return false;
            }
        }
        if let Some(state) = all.seats.get_mut(&self.id) {
            state.held += bytes;
            all.held += bytes;
        }
        true
    }

    /// The answer is made, if not yet written, and the client's next request is waited for.
    pub fn ends_call(&self) {
        let all = &mut *self.seats.lock();
        if let Some(state) = all.seats.get_mut(&self.id) {
            all.calls -= usize::from(state.idle.is_none());
            state.idle = Some(Instant::now());
        }
    }

    /// The client is to take what is written; when that is too slow if it takes nothing.
    pub fn waits_for_reader(&self) -> Option<Instant> {
        let least = self.seats.least;
        self.with(|state, now| {
            state.write.wait(now);
            state.write.limit(&least)
        })?
    }

    /// The client took so many bytes.
    pub fn wrote(&self, bytes: u64) {
        let least = self.seats.least;
        self.with(|state, now| state.write.moved(bytes, &least, now));
    }

    /// AllSeats that was made is written.
    pub fn flushed(&self) {
        let all = &mut *self.seats.lock();
        if let Some(state) = all.seats.get_mut(&self.id).filter(|state| state.idle.is_some()) {
            all.held -= std::mem::take(&mut state.held);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::sleep;

    async fn is_over(seat: &Seat) -> bool {
        tokio::time::timeout(Duration::ZERO, seat.over()).await.is_ok()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_longest_idle_makes_room() {
        let seats = Seats::new(3, &Limits::default());
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(seats.enter().unwrap());
            sleep(Duration::from_millis(5)).await;
        }
        assert!(all[0].begins_call(false));
        let fourth = seats.enter().unwrap();
        assert!(!is_over(&all[0]).await && is_over(&all[1]).await && !is_over(&all[2]).await);
        // One that is over counts no more, and is not heard
        all[1].ends_call();
        assert!(!all[1].is_unread() && all[1].waits_for_reader().is_none());
        // Nobody goes for a newcomer where all are at work
        let _ = (all[2].begins_call(false), fourth.begins_call(true));
        assert!(seats.enter().is_none() && fourth.is_unread());
        // But for one who does not read
        assert!(all[2].waits_for_reader().is_some());
        assert!(seats.enter().is_none(), "it has only begun");
        sleep(Duration::from_millis(150)).await;
        all[2].wrote(64 << 20);
        assert!(seats.enter().is_none(), "it reads");
        all[2].waits_for_reader();
        sleep(Duration::from_millis(150)).await;
        assert!(seats.enter().is_some() && is_over(&all[2]).await);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn not_all_may_be_in_a_call() {
        let seats = Seats::new(16, &Limits::default());
        let all: Vec<Seat> = (0..16).map(|_| seats.enter().unwrap()).collect();
        assert!(all[..14].iter().all(|seat| seat.begins_call(false)));
        assert!(!all[14].begins_call(false));
        all[0].ends_call();
        all[14].ends_call();
        assert!(all[15].begins_call(false));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn answers_in_memory_are_bounded() {
        let seats = Seats::new(8, &Limits { answers_bytes: 100, ..Limits::default() });
        let [first, second, third] = [(); 3].map(|()| seats.enter().unwrap());
        for seat in [&first, &second, &third] {
            seat.begins_call(false);
        }
        assert!(first.holds(60) && !second.holds(60) && !second.holds(101));
        first.waits_for_reader();
        assert!(!second.holds(60), "it has only begun");
        sleep(Duration::from_millis(150)).await;
        assert!(second.holds(60) && is_over(&first).await);
        // Written, and the place is free
        second.flushed();
        assert!(!third.holds(60), "the answer goes on");
        second.ends_call();
        second.flushed();
        assert!(third.holds(60) && !is_over(&second).await);
    }
}
