//! New images for bots.

use std::time::Duration;

use jiff::Timestamp;

use super::error::FleetError;
use super::executor::ROLLED_BACK;
use super::image::ImageDigest;
use super::model::{Bot, DesiredState, Phase};
use super::service::Fleet;
use crate::audit::Origin;
use crate::ids::{BotId, TenantId};

/// How often is looked what has become of an update.
const LOOK: Duration = Duration::from_millis(250);

/// What a bot's image is, and what its name means by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageStatus {
    /// The bot.
    pub bot: Bot,
    /// What the registry has under the image's name, or the engine where no registry has it.
    pub available: ImageDigest,
    /// When that was asked.
    pub checked_at: Timestamp,
}

impl ImageStatus {
    /// Whether an update would make the bot run something else.
    pub fn is_outdated(&self) -> bool {
        self.bot.spec.digest.as_ref().is_some_and(|current| *current != self.available)
    }
}

/// What has become of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The bot runs what its image means now; one that rests will, once it is started.
    Done,
    /// The new image did not come up: the bot has what it had before, for this reason.
    RolledBack(String),
    /// Something else was wanted of the bot before this was decided.
    Superseded,
    /// It is not decided yet; the reason is that of the last attempt that failed.
    UnderWay(Option<String>),
}

impl Update {
    /// What became of the update whose outcome was `updated`, seen from how the bot is `now`.
    fn of(updated: &Bot, now: &Bot) -> Self {
        if now.generation != updated.generation {
            let reason = now.last_error.as_deref().and_then(|error| error.strip_prefix(ROLLED_BACK));
            return reason.map_or(Self::Superseded, |reason| Self::RolledBack(reason.to_owned()));
        }
        let runs = now.phase == Phase::Running && now.fallback.is_none();
        let rests = now.desired != DesiredState::Running || now.suspended_at.is_some();
        if runs || rests { Self::Done } else { Self::UnderWay(now.last_error.clone()) }
    }
}

impl Fleet {
    /// What the bot's image is and what its name means by now. Fetches nothing.
    ///
    /// # Errors
    /// [`FleetError::NotFound`]; [`FleetError::Host`] when neither a registry nor the engine can tell.
    pub async fn image_status(&self, tenant: TenantId, id: BotId) -> Result<ImageStatus, FleetError> {
        let bot = self.get(tenant, id).await?;
        let available = self.bounded(self.config().deadlines.call, self.host().look_up_image(&bot.spec.image)).await?;
        Ok(ImageStatus { bot, available, checked_at: self.clock().now() })
    }

    /// Finds out anew what the bot's image means, and runs that; if it does not come up, what ran before runs again.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub async fn update_image(&self, origin: &Origin, tenant: TenantId, id: BotId) -> Result<Bot, FleetError> {
        self.change(origin, tenant, id, "bot.update_image", false, |bot| {
            if bot.fallback.is_none() && bot.spec.digest.is_some() {
                bot.fallback = Some(bot.spec.clone());
            }
            bot.spec.digest = bot.spec.image.pinned();
            if bot.desired == DesiredState::Running {
                bot.phase = Phase::Pending;
            }
        })
        .await
    }

    /// Waits until it is known what has become of an update, and no longer than `patience`. `updated` is what
    /// [`Fleet::update_image`] answered.
    ///
    /// # Errors
    /// [`FleetError::NotFound`] when the bot is gone.
    pub async fn await_update(&self, updated: &Bot, patience: Duration) -> Result<(Bot, Update), FleetError> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let now = self.get(updated.tenant_id, updated.id).await?;
            let update = Update::of(updated, &now);
            if !matches!(update, Update::UnderWay(_)) || tokio::time::Instant::now() >= deadline {
                return Ok((now, update));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
