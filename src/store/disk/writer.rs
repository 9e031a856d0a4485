//! Who writes, and when: callers with time to do so themselves, and a thread for everything else.
//!
//! Owns the grouping. Nothing is waited for to make a group larger: what has come while the commit before was made is the
//! next group. The thread also keeps promises, and looks whether a store that failed works again. What may take long, since
//! it waits for the disk, is `keeper`'s.

use super::appender::Appender;
use super::delivered::Delivered;
use super::health::Health;
use super::index::{Index, last_of};
use super::keeper::{Errand, Keeper};
use super::spans::Unindexed;
use super::{Broken, Started, signed};
use crate::failpoint;
use crate::model::{SessionId, TurnId};
use crate::store::{Batch, Done, Promised, StoreError, has_time};
use crate::telemetry::metrics::metrics;
use nix::fcntl::Flock;
use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The most entries of one commit.
const GROUP: usize = 4096;
/// The most bytes of one commit, by the engine's measure; a larger batch is one of its own.
const GROUP_BYTES: i64 = 4 << 20;
/// What may be lost in a crash is written with the next batch, or when nothing has come for so long.
const IDLE: Duration = Duration::from_millis(200);
/// How often it is looked for what callers who write themselves have put off.
const QUIET: Duration = Duration::from_secs(10);
/// How often a store that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// A commit that takes longer than this means a disk that makes writers wait: for a multiple of what it took only the
/// thread waits. Shorter ones are those of a thread that had to wait for a core.
const SLOW: Duration = Duration::from_millis(10);
const SLOW_TIMES: u32 = 20;
/// How long a caller waits for the one before it, before it leaves its batch to the thread.
const SOON: Duration = Duration::from_millis(2);
/// How long a store that is let go of waits for its index. A disk may take many seconds, which a server that is to stop has
/// not; what the index lacks is read from the log by the next start. Tests open the folder again in this very process.
const LAST_INDEX: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 500 });

type AppenderGuard<'a> = parking_lot::MutexGuard<'a, Appender>;

pub(super) enum Order {
    Promise(Promised, oneshot::Sender<Result<(), StoreError>>),
    Withdraw(TurnId),
    /// Enough answers were delivered to be written.
    Delivered,
    Flush(oneshot::Sender<()>),
}

/// The way to the log. Each session has one batch on its way at most, which bounds what waits.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    /// Broken off when the keeper has ended.
    kept: Mutex<Receiver<()>>,
}

pub(super) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    appender: parking_lot::Mutex<Appender>,
    delivered: Delivered,
    /// Where acknowledgements are given.
    runtime: Option<Handle>,
    began: Instant,
    /// Milliseconds since then until which callers do not write themselves.
    slow_until: AtomicU64,
    /// To the one that writes the index, and that it was told to.
    errands: Sender<Errand>,
    is_index_due: AtomicBool,
    unindexed: Unindexed,
    /// Nobody else has the folder as long as somebody may write: the thread, too, when the store was let go of on it.
    _lock: Flock<File>,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<(Batch, Done)>,
    orders: VecDeque<Order>,
    /// The thread sleeps.
    is_asleep: bool,
    /// It shall write what it has, and end.
    is_closed: bool,
    /// It has ended, or shall as a killed process does.
    is_dead: bool,
}

impl Writer {
    pub(super) fn start(started: Started) -> Self {
        let Started { appender, index, keeper, unindexed, health, retention, delivered, lock } = started;
        let (errands, taken) = channel();
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            appender: parking_lot::Mutex::new(appender),
            delivered,
            runtime: Handle::try_current().ok(),
            began: Instant::now(),
            slow_until: AtomicU64::new(0),
            errands,
            is_index_due: AtomicBool::new(false),
            unindexed: unindexed.clone(),
            _lock: lock,
        });
        let mut keeper = Keeper { shared: shared.clone(), index: keeper, unindexed, health: health.clone(), retention };
        let mut thread = Thread { shared: shared.clone(), index, health };
        let name = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let (keeps, kept) = channel();
        let keep = move || {
            keeper.run(&taken);
            drop((keeper, keeps));
        };
        let failed = |error: &std::io::Error| {
            tracing::error!(%error, "a thread of the store could not be started");
            shared.queue().is_dead = true;
        };
        let thread = name("store").spawn(move || thread.run()).inspect_err(failed).ok();
        let keeper = name("store-index").spawn(keep).inspect_err(failed).ok();
        Self { thread, keeper, kept: Mutex::new(kept), shared }
    }

    /// Writes a batch here and now, where the caller has time and nobody else writes; else the thread does.
    pub(super) fn append(&self, batch: Batch, done: Done) {
        if has_time()
            && !self.shared.is_slow()
            && let Some(appender) = self.shared.appender_soon()
        {
            self.shared.lead(appender, batch, done);
            return;
        }
        self.shared.leave((batch, done));
    }

    pub(super) fn order(&self, order: Order) {
        let mut queue = self.shared.queue();
        if !queue.is_dead {
            queue.orders.push_back(order);
            self.shared.wake_up(queue);
            return;
        }
        drop(queue);
        if let Order::Promise(_, told) = order {
            drop(told.send(Err(ended())));
        }
    }

    /// Notes that a caller has the whole answer of a turn.
    pub(super) fn delivered(&self, session: &SessionId, turn: &TurnId) {
        if self.shared.delivered.add(session, turn) {
            self.order(Order::Delivered);
        }
    }

    #[cfg(test)]
    pub(super) fn full_at(&self, position: i64) {
        self.shared.appender().log.full_at = Some(position);
    }

    /// Ends the threads as a killed process would end them, behind what was given so far, for the tests.
    #[cfg(test)]
    pub(super) fn kill(&self) {
        let mut queue = self.shared.queue();
        queue.is_dead = true;
        self.shared.wake_up(queue);
        let _ = self.shared.errands.send(Errand::Die);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread writes what it has, and ends.
        let mut queue = self.shared.queue();
        queue.is_closed = true;
        self.shared.wake_up(queue);
        // The last one to let go of the store may be one of them, which cannot wait for its own end.
        let here = std::thread::current().id();
        let is_own = [&self.thread, &self.keeper].into_iter().flatten().any(|thread| thread.thread().id() == here);
        if let Some(thread) = self.thread.take().filter(|_| !is_own) {
            let _ = thread.join();
        }
        let _ = self.shared.errands.send(Errand::End);
        failpoint::reach("store-closed");
        if is_own {
            return;
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LAST_INDEX);
        if let Some(keeper) = self.keeper.take().filter(|_| kept != Err(RecvTimeoutError::Timeout)) {
            let _ = keeper.join();
        }
    }
}

fn ended() -> StoreError {
    StoreError("its thread has ended".to_owned())
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn appender(&self) -> AppenderGuard<'_> {
        self.appender.lock()
    }

    /// The right to write, if whoever has it gives it back soon: a short wait is less than two changes of threads.
    fn appender_soon(&self) -> Option<AppenderGuard<'_>> {
        self.appender.try_lock_for(SOON)
    }

    fn is_slow(&self) -> bool {
        let until = self.slow_until.load(Ordering::Relaxed);
        until > 0 && u128::from(until) > self.began.elapsed().as_millis()
    }

    fn wake_up(&self, mut queue: MutexGuard<'_, Queue>) {
        if std::mem::take(&mut queue.is_asleep) {
            drop(queue);
            self.wake.notify_one();
        }
    }

    /// Leaves a batch to the thread.
    fn leave(&self, batch: (Batch, Done)) {
        let mut queue = self.queue();
        if !queue.is_dead {
            metrics().store_pending.add(weight(&batch.0));
            queue.batches.push_back(batch);
            self.wake_up(queue);
            return;
        }
        drop(queue);
        batch.1.tell(Err(ended()));
    }

    /// Writes a batch together with those that wait, on the caller's thread.
    fn lead(&self, appender: AppenderGuard<'_>, batch: Batch, done: Done) {
        let mut group = vec![(batch, done)];
        {
            let mut queue = self.queue();
            if queue.is_dead {
                drop((queue, appender));
                for (_, done) in group {
                    done.tell(Err(ended()));
                }
                return;
            }
            queue.fill(&mut group);
        }
        let began = Instant::now();
        let written = self.commit(appender, &group);
        let took = began.elapsed();
        if took > SLOW {
            let until = self.began.elapsed() + took * SLOW_TIMES;
            self.slow_until.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        let mut told = group.into_iter().map(|(_, done)| done);
        let own = told.next();
        let others: Vec<Done> = told.collect();
        if !others.is_empty() {
            self.tell(others, written.clone());
        }
        if let Some(own) = own {
            own.tell(written);
        }
    }

    fn commit(&self, mut appender: AppenderGuard<'_>, group: &[(Batch, Done)]) -> Result<(), StoreError> {
        let written = appender.commit(group.iter().map(|(batch, _)| batch));
        drop(appender);
        failpoint::reach("store-committed");
        if self.unindexed.are_many() && !self.is_index_due.swap(true, Ordering::AcqRel) {
            let _ = self.errands.send(Errand::WriteIndex);
        }
        written
    }

    /// The index is about to be written: what comes from here on may ask for it again.
    pub(super) fn index_begins(&self) {
        self.is_index_due.store(false, Ordering::Release);
    }

    /// Who waits is woken on the runtime: from there it costs one call of the system for all of them, from here one each.
    fn tell(&self, all: Vec<Done>, written: Result<(), StoreError>) {
        let tell = move || all.into_iter().for_each(|done| done.tell(written.clone()));
        match &self.runtime {
            Some(runtime) => drop(runtime.spawn(async move { tell() })),
            None => tell(),
        }
    }
}

impl Queue {
    /// Moves what waits into a group, as much as one commit takes.
    fn fill(&mut self, group: &mut Vec<(Batch, Done)>) {
        let (mut entries, mut bytes) = (0, 0);
        while entries < GROUP
            && bytes < GROUP_BYTES
            && let Some(next) = self.batches.pop_front()
        {
            let weight = weight(&next.0);
            metrics().store_pending.sub(weight);
            entries += next.0.entries.len();
            bytes += weight;
            group.push(next);
        }
    }
}

/// What a batch weighs, by the engine's measure.
fn weight(batch: &Batch) -> i64 {
    signed(batch.entries.iter().map(|entry| entry.weight() as u64).sum())
}

/// The thread.
struct Thread {
    shared: Arc<Shared>,
    index: Index,
    health: Arc<Health>,
}

/// What the thread woke up for.
enum Due {
    Work(Vec<(Batch, Done)>, VecDeque<Order>),
    Nothing,
    /// Write what there is, and end.
    End,
    /// End at once.
    Die,
}

impl Thread {
    fn run(&mut self) {
        let mut is_idle = true;
        loop {
            match self.wait(is_idle) {
                Due::Work(group, orders) => {
                    is_idle = false;
                    if !group.is_empty() {
                        let written = self.shared.commit(self.shared.appender(), &group);
                        self.shared.tell(group.into_iter().map(|(_, done)| done).collect(), written);
                    }
                    for order in orders {
                        self.obey(order);
                    }
                }
                Due::Nothing => {
                    self.catch_up();
                    is_idle = true;
                }
                Due::End => break,
                Due::Die => return,
            }
        }
        if self.health.is_ok() {
            self.catch_up();
        }
        self.shared.queue().is_dead = true;
    }

    fn wait(&self, is_idle: bool) -> Due {
        let deadline = Instant::now() + self.idle_time(is_idle);
        let mut queue = self.shared.queue();
        loop {
            if !queue.batches.is_empty() || !queue.orders.is_empty() {
                let mut group = Vec::new();
                queue.fill(&mut group);
                // What was ordered behind batches that did not fit waits for them.
                let orders = if queue.batches.is_empty() { std::mem::take(&mut queue.orders) } else { VecDeque::new() };
                return Due::Work(group, orders);
            }
            if queue.is_dead {
                return Due::Die;
            }
            if queue.is_closed {
                return Due::End;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Due::Nothing;
            }
            queue.is_asleep = true;
            queue = self.shared.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
            queue.is_asleep = false;
        }
    }

    /// How long there is nothing to do but to wait. Callers who write themselves do not wake the thread.
    fn idle_time(&self, is_idle: bool) -> Duration {
        match (self.health.is_ok(), is_idle) {
            (false, _) => AGAIN,
            (true, true) => QUIET,
            (true, false) => IDLE,
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Promise(promised, told) => {
                let kept = self.index.promise(&promised).map_err(|error| self.failed(&error));
                if kept.is_ok() {
                    self.shared.appender().promised.insert(promised.turn);
                }
                drop(told.send(kept));
            }
            Order::Withdraw(turn) => {
                self.shared.appender().promised.remove(&turn);
                if let Err(error) = self.index.withdraw(&turn) {
                    self.failed(&error);
                }
            }
            Order::Delivered => self.catch_up(),
            Order::Flush(told) => {
                // Not for the disk nor the index: what was written is the system's, and no crash of ours loses it.
                self.catch_up();
                let _ = told.send(());
            }
        }
    }

    fn failed(&self, error: &Broken) -> StoreError {
        let error = StoreError(error.to_string());
        self.health.failed(&error);
        error
    }

    /// Writes what was put off, or tries a store that failed once more.
    fn catch_up(&mut self) {
        if !self.health.is_ok() {
            let _ = self.shared.appender().probe();
            return;
        }
        let delivered = self.shared.delivered.take_all();
        if delivered.is_empty() {
            return;
        }
        let last = |session: &SessionId| last_of(&self.index.connection, &self.shared.unindexed, session);
        let with_last = delivered.into_iter().map(|(session, turns)| Ok((last(&session)?, session, turns)));
        let with_last: rusqlite::Result<Vec<_>> = with_last.collect();
        match with_last {
            Ok(all) => {
                let all = all.into_iter().map(|(last, session, turns)| (session, last, turns)).collect();
                let _ = self.shared.appender().commit_delivered(all);
            }
            Err(error) => drop(self.failed(&error.into())),
        }
    }
}
