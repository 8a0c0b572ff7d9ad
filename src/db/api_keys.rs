//! API keys of people. The key itself is nowhere; its hash is compared by whoever asked for the row.

use super::conn::{Row, args};
use super::users::{role, user_id};
use super::{Db, Dialect};
use crate::auth::UserId;
use crate::auth::principal::{Role, Scopes};
use crate::base::Result;

/// A key as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// What names it.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// What it opens.
    pub scopes: Scopes,
    /// When it was made.
    pub created_us: i64,
    /// When it ends.
    pub expires_us: Option<i64>,
    /// When it was used, within some minutes.
    pub used_us: Option<i64>,
}

/// What a presented key is checked against.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// Whose it is.
    pub user: UserId,
    /// What they are now.
    pub role: Role,
    /// Whether they have a second factor now.
    pub second_factor: bool,
    /// What it opens.
    pub scopes: Scopes,
    /// When it was used.
    pub used_us: Option<i64>,
}

/// Keys of one person at most: enough to replace each while it is used.
pub const KEYS_MAX: i64 = 50;

macro_rules! columns {
    () => {
        "id, name, may_read, may_write, may_admin, created_us, expires_us, used_us"
    };
}

impl Db {
    /// Keeps a new key; false when its owner has too many.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn create_key(&self, user: &UserId, key: &Key, sha256: &str, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        // Locks the owner's row: two at once do not both see room for one.
        let lock = match tx.dialect() {
            Dialect::Sqlite => "select id from users where id = $1",
            Dialect::Postgres => "select id from users where id = $1 for update",
        };
        tx.first(lock, args![user.as_str()]).await?;
        let row = tx
            .first("select count(*) as n from api_key where user_id = $1 and revoked_us is null", args![user.as_str()])
            .await?;
        if row.map_or(Ok(0), |row| row.int("n"))? >= KEYS_MAX {
            return Ok(false);
        }
        let Scopes { read, write, admin } = key.scopes;
        tx.execute(
            "insert into api_key (id, user_id, name, sha256, may_read, may_write, may_admin, created_us, expires_us)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            args![
                &key.id,
                user.as_str(),
                &key.name,
                sha256,
                i64::from(read),
                i64::from(write),
                i64::from(admin),
                now_us,
                key.expires_us
            ],
        )
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Somebody's keys that were not revoked, by name of the key.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn keys(&self, user: &UserId, after: Option<&str>, limit: i64) -> Result<Vec<Key>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!(
            "select ",
            columns!(),
            " from api_key where user_id = $1 and revoked_us is null and ($2 = '' or id > $2) order by id limit $3"
        );
        tx.all(sql, args![user.as_str(), after.unwrap_or_default(), limit]).await?.iter().map(key).collect()
    }

    /// Revokes a key; false when there is no such.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn revoke_key(&self, user: &UserId, id: &str, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let sql = "update api_key set revoked_us = $3 where id = $1 and user_id = $2 and revoked_us is null";
        let revoked = tx.execute(sql, args![id, user.as_str(), now_us]).await?;
        tx.commit().await?;
        Ok(revoked > 0)
    }

    /// The key of this name, if it still opens and its owner does not leave: the caller compares the hash.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn held_key(&self, id: &str, now_us: i64) -> Result<Option<Held>> {
        let mut tx = self.begin_read().await?;
        let row = tx
            .first(
                "select api_key.sha256, api_key.user_id, users.role, api_key.may_read, api_key.may_write, api_key.may_admin,
                   api_key.used_us, users.totp_since_us
                 from api_key join users on users.id = api_key.user_id
                 where api_key.id = $1 and api_key.revoked_us is null
                   and (api_key.expires_us is null or api_key.expires_us > $2) and users.disabled_us is null
                   and not exists (select 1 from account_erasure
                     where account_erasure.user_id = users.id and account_erasure.taken_back_us is null)",
                args![id, now_us],
            )
            .await?;
        row.map(|row| {
            Ok(Held {
                sha256: row.text("sha256")?,
                user: user_id(&row.text("user_id")?)?,
                role: role(&row.text("role")?)?,
                second_factor: row.int_or_null("totp_since_us")?.is_some(),
                scopes: scopes(&row)?,
                used_us: row.int_or_null("used_us")?,
            })
        })
        .transpose()
    }

    /// Notes that a key was used.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn note_key(&self, id: &str, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute("update api_key set used_us = $2 where id = $1", args![id, now_us]).await?;
        tx.commit().await
    }
}

fn key(row: &Row) -> Result<Key> {
    Ok(Key {
        id: row.text("id")?,
        name: row.text("name")?,
        scopes: scopes(row)?,
        created_us: row.int("created_us")?,
        expires_us: row.int_or_null("expires_us")?,
        used_us: row.int_or_null("used_us")?,
    })
}

fn scopes(row: &Row) -> Result<Scopes> {
    let may = |column: &str| row.int(column).map(|flag| flag == 1);
    Ok(Scopes { read: may("may_read")?, write: may("may_write")?, admin: may("may_admin")? })
}
