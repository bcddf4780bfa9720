use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use crate::auth::{Account, Email, ImageChange, SignUp, User};
use crate::db::DbError;
use crate::db::schema::auth::{accounts, platform_admins, users};
use crate::db::schema::foundation::tenants;
use crate::ids::{AccountId, UserId};

/// The only kind of account so far: a password of ours.
const CREDENTIAL: &str = "credential";

#[derive(Queryable, Selectable)]
#[diesel(table_name = users, check_for_backend(diesel::pg::Pg))]
pub(super) struct UserRow {
    id: Uuid,
    email: String,
    name: String,
    image: Option<String>,
    email_verified_at: Option<jiff_diesel::Timestamp>,
    created_at: jiff_diesel::Timestamp,
    updated_at: jiff_diesel::Timestamp,
}

impl TryFrom<UserRow> for User {
    type Error = DbError;

    fn try_from(row: UserRow) -> Result<Self, DbError> {
        Ok(Self {
            id: UserId::from_uuid(row.id),
            email: Email::parse(&row.email).map_err(|error| DbError::inconsistent("users", error))?,
            name: row.name,
            image: row.image,
            email_verified_at: row.email_verified_at.map(jiff_diesel::Timestamp::to_jiff),
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
        })
    }
}

/// A user's password, as stored.
pub(in crate::auth) struct Credential {
    pub(in crate::auth) user_id: UserId,
    pub(in crate::auth) password_hash: String,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = accounts, check_for_backend(diesel::pg::Pg))]
struct AccountRow {
    id: Uuid,
    user_id: Uuid,
    provider: String,
    account_id: String,
    created_at: jiff_diesel::Timestamp,
    updated_at: jiff_diesel::Timestamp,
}

impl From<AccountRow> for Account {
    fn from(row: AccountRow) -> Self {
        Self {
            id: AccountId::from_uuid(row.id),
            user_id: UserId::from_uuid(row.user_id),
            provider: row.provider,
            account_id: row.account_id,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
        }
    }
}

pub(in crate::auth) struct UserRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> UserRepository<'c> {
    pub(in crate::auth) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Makes the user, the personal tenant and the password. `None` when the address is taken: of several at once one
    /// gets it, the others wait for its end here. The caller rolls back then.
    pub(in crate::auth) async fn insert(
        &mut self,
        at: Timestamp,
        sign_up: &SignUp,
        password_hash: &str,
    ) -> Result<Option<User>, DbError> {
        let id = UserId::new(at);
        diesel::insert_into(tenants::table)
            .values((
                tenants::id.eq(id.as_uuid()),
                tenants::kind.eq("personal"),
                tenants::name.eq(sign_up.tenant_name()),
                tenants::created_at.eq(at.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        let row: Option<UserRow> = diesel::insert_into(users::table)
            .values((
                users::id.eq(id.as_uuid()),
                users::email.eq(sign_up.email.as_str()),
                users::name.eq(&sign_up.name),
                users::image.eq(&sign_up.image),
                users::created_at.eq(at.to_diesel()),
                users::updated_at.eq(at.to_diesel()),
            ))
            .on_conflict(users::email)
            .do_nothing()
            .returning(UserRow::as_returning())
            .get_result(self.conn)
            .await
            .optional()?;
        let Some(row) = row else { return Ok(None) };
        diesel::insert_into(accounts::table)
            .values((
                accounts::id.eq(AccountId::new(at).as_uuid()),
                accounts::user_id.eq(id.as_uuid()),
                accounts::provider.eq(CREDENTIAL),
                accounts::account_id.eq(id.to_string()),
                accounts::password_hash.eq(password_hash),
                accounts::created_at.eq(at.to_diesel()),
                accounts::updated_at.eq(at.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        User::try_from(row).map(Some)
    }

    pub(in crate::auth) async fn find(&mut self, id: UserId) -> Result<Option<User>, DbError> {
        let row: Option<UserRow> =
            users::table.find(id.as_uuid()).select(UserRow::as_select()).first(self.conn).await.optional()?;
        row.map(User::try_from).transpose()
    }

    pub(in crate::auth) async fn find_by_email(&mut self, email: &Email) -> Result<Option<User>, DbError> {
        let row: Option<UserRow> = users::table
            .filter(users::email.eq(email.as_str()))
            .select(UserRow::as_select())
            .first(self.conn)
            .await
            .optional()?;
        row.map(User::try_from).transpose()
    }

    /// Changes name or image, whichever is given.
    pub(in crate::auth) async fn update(
        &mut self,
        at: Timestamp,
        id: UserId,
        name: Option<&str>,
        image: ImageChange<'_>,
    ) -> Result<Option<User>, DbError> {
        let row: Option<UserRow> = diesel::update(users::table.find(id.as_uuid()))
            .set((
                name.map(|name| users::name.eq(name)),
                image.column().map(|image| users::image.eq(image)),
                users::updated_at.eq(at.to_diesel()),
            ))
            .returning(UserRow::as_returning())
            .get_result(self.conn)
            .await
            .optional()?;
        row.map(User::try_from).transpose()
    }

    /// Marks the address as verified. `None` when it is so already, or is another by now.
    pub(in crate::auth) async fn mark_verified(
        &mut self,
        at: Timestamp,
        id: UserId,
        email: &str,
    ) -> Result<Option<User>, DbError> {
        let unverified =
            users::table.find(id.as_uuid()).filter(users::email.eq(email)).filter(users::email_verified_at.is_null());
        let row: Option<UserRow> = diesel::update(unverified)
            .set((users::email_verified_at.eq(at.to_diesel()), users::updated_at.eq(at.to_diesel())))
            .returning(UserRow::as_returning())
            .get_result(self.conn)
            .await
            .optional()?;
        row.map(User::try_from).transpose()
    }

    pub(in crate::auth) async fn find_credential(&mut self, email: &Email) -> Result<Option<Credential>, DbError> {
        let row: Option<(Uuid, String)> = accounts::table
            .inner_join(users::table)
            .filter(users::email.eq(email.as_str()))
            .filter(accounts::provider.eq(CREDENTIAL))
            .select((accounts::user_id, accounts::password_hash))
            .first(self.conn)
            .await
            .optional()?;
        Ok(row.map(credential))
    }

    pub(in crate::auth) async fn find_credential_of(&mut self, user: UserId) -> Result<Option<Credential>, DbError> {
        let row: Option<(Uuid, String)> = accounts::table
            .filter(accounts::user_id.eq(user.as_uuid()))
            .filter(accounts::provider.eq(CREDENTIAL))
            .select((accounts::user_id, accounts::password_hash))
            .first(self.conn)
            .await
            .optional()?;
        Ok(row.map(credential))
    }

    /// Whether this is still the user's password; it stays so until the transaction ends.
    pub(in crate::auth) async fn hold_credential(&mut self, credential: &Credential) -> Result<bool, DbError> {
        let row: Option<Uuid> = accounts::table
            .filter(accounts::user_id.eq(credential.user_id.as_uuid()))
            .filter(accounts::provider.eq(CREDENTIAL))
            .filter(accounts::password_hash.eq(&credential.password_hash))
            .select(accounts::id)
            .for_share()
            .first(self.conn)
            .await
            .optional()?;
        Ok(row.is_some())
    }

    /// Replaces the password; with `before` only if that is still the stored one.
    pub(in crate::auth) async fn set_password(
        &mut self,
        at: Timestamp,
        user: UserId,
        password_hash: &str,
        before: Option<&Credential>,
    ) -> Result<bool, DbError> {
        let account =
            accounts::table.filter(accounts::user_id.eq(user.as_uuid())).filter(accounts::provider.eq(CREDENTIAL));
        let new = (accounts::password_hash.eq(password_hash), accounts::updated_at.eq(at.to_diesel()));
        let changed = match before {
            Some(before) => {
                diesel::update(account.filter(accounts::password_hash.eq(&before.password_hash)))
                    .set(new)
                    .execute(self.conn)
                    .await?
            }
            None => diesel::update(account).set(new).execute(self.conn).await?,
        };
        Ok(changed == 1)
    }

    pub(in crate::auth) async fn list_accounts(&mut self, user: UserId) -> Result<Vec<Account>, DbError> {
        let rows: Vec<AccountRow> = accounts::table
            .filter(accounts::user_id.eq(user.as_uuid()))
            .order(accounts::created_at)
            .select(AccountRow::as_select())
            .load(self.conn)
            .await?;
        Ok(rows.into_iter().map(Account::from).collect())
    }

    pub(in crate::auth) async fn is_platform_admin(&mut self, user: UserId) -> Result<bool, DbError> {
        let row: Option<Uuid> = platform_admins::table
            .find(user.as_uuid())
            .select(platform_admins::user_id)
            .first(self.conn)
            .await
            .optional()?;
        Ok(row.is_some())
    }

    /// Whether the user was none before.
    pub(in crate::auth) async fn add_platform_admin(
        &mut self,
        at: Timestamp,
        user: UserId,
        granted_by: &str,
    ) -> Result<bool, DbError> {
        let added = diesel::insert_into(platform_admins::table)
            .values((
                platform_admins::user_id.eq(user.as_uuid()),
                platform_admins::granted_by.eq(granted_by),
                platform_admins::granted_at.eq(at.to_diesel()),
            ))
            .on_conflict_do_nothing()
            .execute(self.conn)
            .await?;
        Ok(added == 1)
    }

    /// All platform administrators, locked until the transaction ends, so that two cannot remove each other.
    pub(in crate::auth) async fn platform_admins_for_update(&mut self) -> Result<Vec<UserId>, DbError> {
        let rows: Vec<Uuid> = platform_admins::table
            .order(platform_admins::user_id)
            .select(platform_admins::user_id)
            .for_update()
            .load(self.conn)
            .await?;
        Ok(rows.into_iter().map(UserId::from_uuid).collect())
    }

    pub(in crate::auth) async fn remove_platform_admin(&mut self, user: UserId) -> Result<(), DbError> {
        diesel::delete(platform_admins::table.find(user.as_uuid())).execute(self.conn).await?;
        Ok(())
    }
}

fn credential((user_id, password_hash): (Uuid, String)) -> Credential {
    Credential { user_id: UserId::from_uuid(user_id), password_hash }
}
