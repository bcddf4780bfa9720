//! Looking after all bots: those that are due, all of them, and what belongs to none.

use futures_util::StreamExt as _;
use futures_util::stream;

use super::error::FleetError;
use super::executor::Outcome;
use super::model::Phase;
use super::repository::BotRepository;
use super::service::Fleet;
use crate::ids::{BotId, TenantId};

/// Bots looked at together: an engine that is slow for one does not keep the others waiting.
const PARALLEL: usize = 8;
/// Bots taken from the list of those that are due at a time.
const BATCH: i64 = 64;

/// What a run of [`Fleet::reconcile`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SweepReport {
    /// Bots looked at.
    pub observed: usize,
    /// Bots that are not as wanted.
    pub failed: usize,
    /// Names of containers and volumes that say they are a bot's which this database does not know. They are reported
    /// and left alone: they may be another installation's.
    pub orphans: Vec<String>,
}

impl Fleet {
    /// Takes every bot that is due as far as it goes, and answers how many that were.
    ///
    /// # Errors
    /// [`FleetError::Storage`]; a bot that cannot be taken further does not stop the others.
    pub async fn advance(&self) -> Result<usize, FleetError> {
        let due = self.list_due().await?;
        let count = due.len();
        self.drive_all(due).await;
        Ok(count)
    }

    /// As [`Fleet::advance`], in the background: one image that takes its time keeps nobody waiting. Bots still being
    /// worked on from earlier calls are left out.
    ///
    /// # Errors
    /// [`FleetError::Storage`].
    pub async fn spawn_due(&self) -> Result<usize, FleetError> {
        let mut count = 0;
        for id in self.list_due().await? {
            if !self.enter(id) {
                continue;
            }
            count += 1;
            let fleet = self.clone();
            tokio::spawn(async move {
                let _entered = Entered { fleet: &fleet, id };
                fleet.drive_logged(id).await;
            });
        }
        Ok(count)
    }

    /// Looks at every bot: finishes what a crash left, makes anew what vanished, applies the account's standing, and
    /// removes what destroyed bots left behind.
    ///
    /// # Errors
    /// [`FleetError::Storage`]; [`FleetError::Host`] when the engine cannot list what it has.
    pub async fn reconcile(&self) -> Result<SweepReport, FleetError> {
        let ids = {
            let mut conn = self.db().connection().await?;
            BotRepository::new(&mut conn).list_to_observe(self.clock().now()).await?
        };
        let mut report = SweepReport { observed: ids.len(), ..SweepReport::default() };
        report.failed = self.drive_all(ids).await;
        let inventory = self.bounded(self.config().deadlines.stop, self.host().inventory()).await?;
        let mut left_behind = Vec::new();
        for thing in inventory.containers.iter().chain(&inventory.volumes) {
            // Other things of the installation carry the label too, and are nobody's bot.
            let Some(id) = thing.bot_id else { continue };
            match self.phase_of(id).await? {
                None => report.orphans.push(thing.name.clone()),
                Some(Phase::Destroyed) if !left_behind.contains(&id) => left_behind.push(id),
                Some(_) => {}
            }
        }
        for network in &inventory.networks {
            let Some(tenant) = network.tenant_id else { continue };
            // A tenant unknown here may be another installation's on the same engine: its network is not ours to remove.
            if self.has_only_former_bots(tenant).await? {
                self.remove_network_if_unused(tenant).await?;
            }
        }
        report.failed += self.drive_all(left_behind).await;
        for name in self.new_orphans(&report.orphans) {
            tracing::warn!(orphan = name, "{name} carries our labels and belongs to no bot of this database");
        }
        Ok(report)
    }

    /// Waits for changes on the engine and makes the bots they belong to due. Ends when the engine goes away.
    ///
    /// # Errors
    /// [`FleetError::Storage`]; [`FleetError::Host`] when the engine cannot be reached.
    pub async fn watch(&self) -> Result<(), FleetError> {
        let mut events = self.bounded(self.config().deadlines.call, self.host().events()).await?;
        // What happened while nobody watched.
        self.sweep_waker().notify_one();
        while let Some(id) = events.next().await {
            let mut conn = self.db().connection().await?;
            BotRepository::new(&mut conn).make_due(id, self.clock().now()).await?;
            drop(conn);
            self.waker().notify_one();
        }
        Ok(())
    }

    async fn list_due(&self) -> Result<Vec<BotId>, FleetError> {
        let mut conn = self.db().connection().await?;
        Ok(BotRepository::new(&mut conn).list_due(self.clock().now(), BATCH).await?)
    }

    /// Drives all of them, several at a time, and answers how many are not as wanted.
    async fn drive_all(&self, ids: Vec<BotId>) -> usize {
        let outcomes = stream::iter(ids).map(|id| self.drive_logged(id)).buffer_unordered(PARALLEL);
        outcomes.filter(|well| std::future::ready(!well)).count().await
    }

    async fn drive_logged(&self, id: BotId) -> bool {
        match self.drive(id).await {
            Ok(outcome) => outcome != Outcome::Failed,
            Err(error) => {
                tracing::error!(bot.id = %id, "bot {id} could not be looked at: {error} ({error:?})");
                false
            }
        }
    }

    async fn phase_of(&self, id: BotId) -> Result<Option<Phase>, FleetError> {
        let mut conn = self.db().connection().await?;
        Ok(BotRepository::new(&mut conn).find(id).await?.map(|bot| bot.phase))
    }

    async fn has_only_former_bots(&self, tenant: TenantId) -> Result<bool, FleetError> {
        let mut conn = self.db().connection().await?;
        Ok(BotRepository::new(&mut conn).has_only_former_bots(tenant).await?)
    }

    fn enter(&self, id: BotId) -> bool {
        self.in_flight().lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id)
    }
}

/// Marks a bot as being worked on in this process, until dropped.
struct Entered<'f> {
    fleet: &'f Fleet,
    id: BotId,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.fleet.in_flight().lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.id);
    }
}
