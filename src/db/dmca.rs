//! Notices of infringement, what was ruled on each, and the audit log. A ruling is one transaction: the notice, its
//! track, the wish that the CDN forgets it, and the line in the log; the caller tells the origins before it commits.

use serde_json::{Value, json};

use super::conn::{Row, Tx, args};
use super::{Db, outbox, purges, tracks};
use crate::auth::email::Email;
use crate::base::id::{TrackId, sortable};
use crate::base::{Error, Result};
use crate::cdn::purge::What;
use crate::tracks::State;
use crate::tracks::dmca::{Counter, Notice, NoticeId, Standing, restore_between};

/// Notices in one page.
pub const PAGE_MAX: u32 = 200;

macro_rules! columns {
    () => {
        "id, standing, track, notice, counter, received_us, taken_down_us, counter_us, restore_from_us, restore_by_us, \
         closed_us"
    };
}

/// A notice as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Filed {
    /// Its id.
    pub id: NoticeId,
    /// How it stands.
    pub standing: Standing,
    /// The track that it means, when that is known.
    pub track: Option<TrackId>,
    /// As it was sent.
    pub notice: Notice,
    /// What the uploader says.
    pub counter: Option<Counter>,
    /// When it came, in microseconds since 1970.
    pub received_us: i64,
    /// When its track was closed.
    pub taken_down_us: Option<i64>,
    /// When the counter-notice came.
    pub counter_us: Option<i64>,
    /// Put back not before.
    pub restore_from_us: Option<i64>,
    /// And before this.
    pub restore_by_us: Option<i64>,
    /// When it was dismissed, restored or upheld.
    pub closed_us: Option<i64>,
}

/// What came of a ruling.
#[derive(Clone, Debug, PartialEq)]
pub enum Ruled {
    /// Done when the transaction commits.
    Done(Box<Filed>),
    /// It stands so that this cannot be done.
    Not(Standing),
    /// The clock says when it can be.
    TooEarly(i64),
    /// It does not say which track it means.
    NoTrack,
    /// The track is gone.
    Gone,
    /// There is no such notice.
    Unknown,
}

/// Who rules, and when.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    /// Subject of who does it, or a program's name.
    pub actor: &'a str,
    /// In microseconds since 1970.
    pub now_us: i64,
}

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq)]
pub struct Audited {
    /// Its id.
    pub id: String,
    /// When, in microseconds since 1970.
    pub at_us: i64,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To what.
    pub about: String,
    /// What else there is to say.
    pub body: Value,
}

/// Adds a line to the audit log, in the caller's transaction: with what it tells of, or not at all.
///
/// # Errors
/// When the database refuses.
pub async fn audit(tx: &mut Tx, by: By<'_>, action: &str, about: &str, body: &Value) -> Result<()> {
    tx.execute(
        "insert into audit (id, at_us, actor, action, about, body) values ($1, $2, $3, $4, $5, $6)",
        args![&sortable("aud_", by.now_us), by.now_us, by.actor, action, about, &body.to_string()],
    )
    .await
    .map(drop)
}

/// Closes the track of a notice, in the caller's transaction. `track`: the one that a person found it to mean, over what
/// it says. `purge_due_us`: when the CDN is to be asked to forget it; `None`: there is none.
///
/// # Errors
/// When the database refuses.
pub async fn take_down(
    tx: &mut Tx,
    id: &NoticeId,
    track: Option<TrackId>,
    purge_due_us: Option<i64>,
    by: By<'_>,
) -> Result<Ruled> {
    let Some(filed) = hold(tx, id).await? else { return Ok(Ruled::Unknown) };
    if !filed.standing.may_become(Standing::TakenDown) {
        return Ok(Ruled::Not(filed.standing));
    }
    let Some(track) = track.or(filed.track) else { return Ok(Ruled::NoTrack) };
    let sql = "update track set updated_us = updated_us where id = $1 returning state";
    let Some(row) = tx.first(sql, args![track.as_str()]).await? else { return Ok(Ruled::Gone) };
    match row.text("state")?.parse()? {
        State::Deleted => return Ok(Ruled::Gone),
        State::Blocked => {} // by another notice
        state => {
            tracks::advance(tx, track.as_str(), (state, State::Blocked), None, by.now_us).await?;
        }
    }
    let sql = "update dmca_notice set standing = 'taken_down', track = $2, taken_down_us = $3 where id = $1";
    tx.execute(sql, args![id.as_str(), track.as_str(), by.now_us]).await?;
    audit(tx, by, "dmca.takedown", id.as_str(), &json!({ "track": track, "from": filed.standing })).await?;
    if let Some(due_us) = purge_due_us {
        purges::wish(tx, &What::Tag(track.to_string()), due_us, by.now_us).await?;
    }
    let about = json!({ "notice": id, "track": track, "work": filed.notice.work, "reason": filed.notice.reason() });
    tell_owner(tx, track, "notice-takedown", &about, by.now_us).await?;
    Ok(done(Filed { standing: Standing::TakenDown, track: Some(track), taken_down_us: Some(by.now_us), ..filed }))
}

/// Finds that a notice is none, in the caller's transaction.
///
/// # Errors
/// When the database refuses.
pub async fn dismiss(tx: &mut Tx, id: &NoticeId, why: &str, by: By<'_>) -> Result<Ruled> {
    let Some(filed) = hold(tx, id).await? else { return Ok(Ruled::Unknown) };
    close(tx, filed, Standing::Dismissed, ("dmca.dismiss", json!({ "why": why })), by).await
}

/// Takes a counter-notice, in the caller's transaction: the clock of 512(g)(2)(C) begins.
///
/// # Errors
/// When the database refuses.
pub async fn dispute(tx: &mut Tx, id: &NoticeId, counter: &Counter, by: By<'_>) -> Result<Ruled> {
    let Some(filed) = hold(tx, id).await? else { return Ok(Ruled::Unknown) };
    if !filed.standing.may_become(Standing::Waiting) {
        return Ok(Ruled::Not(filed.standing));
    }
    let (from_us, by_us) = restore_between(by.now_us);
    let text = serde_json::to_string(counter).expect("plain data always serialises");
    tx.execute(
        "update dmca_notice set standing = 'waiting', counter = $2, counter_us = $3, restore_from_us = $4,
           restore_by_us = $5
         where id = $1",
        args![id.as_str(), &text, by.now_us, from_us, by_us],
    )
    .await?;
    let body = json!({ "track": filed.track, "restore_from_us": from_us, "restore_by_us": by_us });
    audit(tx, by, "dmca.counter_notice", id.as_str(), &body).await?;
    // A copy, promptly, and when the track is back (512(g)(2)(B)).
    let about = json!({ "notice": id, "work": filed.notice.work, "counter": counter, "restore_from_us": from_us });
    tell_sender(tx, &filed.notice, "notice-disputed", &about, by.now_us).await?;
    Ok(done(Filed {
        standing: Standing::Waiting,
        counter: Some(counter.clone()),
        counter_us: Some(by.now_us),
        restore_from_us: Some(from_us),
        restore_by_us: Some(by_us),
        ..filed
    }))
}

/// Hears that a court was asked, in the caller's transaction: the track stays dark.
///
/// # Errors
/// When the database refuses.
pub async fn uphold(tx: &mut Tx, id: &NoticeId, why: &str, by: By<'_>) -> Result<Ruled> {
    let Some(filed) = hold(tx, id).await? else { return Ok(Ruled::Unknown) };
    close(tx, filed, Standing::Upheld, ("dmca.court_action", json!({ "why": why })), by).await
}

/// Puts a track back, in the caller's transaction: when the clock says so, or at once when the complainant withdrew or a
/// court decided (`ends_early`). The second answer: whether the track is to be served again, because no other notice
/// keeps it dark; the origins are told after the commit, so that what fails leaves it dark.
///
/// # Errors
/// When the database refuses.
pub async fn restore(tx: &mut Tx, id: &NoticeId, ends_early: Option<&str>, by: By<'_>) -> Result<(Ruled, bool)> {
    let Some(filed) = hold(tx, id).await? else { return Ok((Ruled::Unknown, false)) };
    if !filed.standing.may_become(Standing::Restored) {
        return Ok((Ruled::Not(filed.standing), false));
    }
    match (ends_early, filed.standing, filed.restore_from_us) {
        (Some(_), ..) => {}
        (None, Standing::Waiting, Some(from_us)) if by.now_us >= from_us => {}
        (None, Standing::Waiting, Some(from_us)) => return Ok((Ruled::TooEarly(from_us), false)),
        (None, ..) => return Ok((Ruled::Not(filed.standing), false)),
    }
    let body = json!({ "track": filed.track, "early": ends_early });
    let ruled = close(tx, filed, Standing::Restored, ("dmca.restore", body), by).await?;
    let track = match &ruled {
        Ruled::Done(filed) => filed.track,
        _ => None,
    };
    let Some(track) = track else { return Ok((ruled, false)) };
    let sql = "update track set updated_us = updated_us where id = $1 returning state, blocked_from";
    let Some(row) = tx.first(sql, args![track.as_str()]).await? else { return Ok((ruled, false)) };
    let sql = "select 1 as one from dmca_notice
               where track = $1 and id <> $2 and standing in ('taken_down', 'waiting', 'upheld') limit 1";
    let others = tx.first(sql, args![track.as_str(), id.as_str()]).await?.is_some();
    let state: State = row.text("state")?.parse()?;
    if others || state != State::Blocked {
        return Ok((ruled, false));
    }
    let back: State = row.text_or_null("blocked_from")?.map_or(Ok(State::Ready), |from| from.parse())?;
    tracks::advance(tx, track.as_str(), (State::Blocked, back), None, by.now_us).await?;
    if let Ruled::Done(filed) = &ruled {
        let about = json!({ "notice": id, "track": track, "work": filed.notice.work });
        tell_owner(tx, track, "notice-restored", &about, by.now_us).await?;
        tell_sender(tx, &filed.notice, "notice-restored", &about, by.now_us).await?;
    }
    Ok((ruled, true))
}

impl Db {
    /// Keeps a notice as it was sent.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn file_notice(&self, notice: &Notice, track: Option<TrackId>, by: By<'_>) -> Result<Filed> {
        let id = NoticeId::new(by.now_us);
        let standing = if notice.missing().is_empty() { Standing::Received } else { Standing::Incomplete };
        let text = serde_json::to_string(notice).expect("plain data always serialises");
        let mut tx = self.begin().await?;
        tx.execute(
            "insert into dmca_notice (id, standing, track, notice, received_us) values ($1, $2, $3, $4, $5)",
            args![id.as_str(), standing.as_str(), track.as_ref().map(TrackId::as_str), &text, by.now_us],
        )
        .await?;
        let body = json!({ "track": track, "standing": standing, "missing": notice.missing() });
        audit(&mut tx, by, "dmca.notice", id.as_str(), &body).await?;
        if standing == Standing::Incomplete {
            ask_for_the_rest(&mut tx, &id, notice, by.now_us).await?;
        }
        tx.commit().await?;
        Ok(Filed {
            id,
            standing,
            track,
            notice: notice.clone(),
            counter: None,
            received_us: by.now_us,
            taken_down_us: None,
            counter_us: None,
            restore_from_us: None,
            restore_by_us: None,
            closed_us: None,
        })
    }

    /// One notice.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn notice(&self, id: &NoticeId) -> Result<Option<Filed>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!("select ", columns!(), " from dmca_notice where id = $1");
        tx.first(sql, args![id.as_str()]).await?.map(|row| filed(&row)).transpose()
    }

    /// Notices, the latest first.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn notices(
        &self,
        standing: Option<Standing>,
        before: Option<&NoticeId>,
        limit: u32,
    ) -> Result<Vec<Filed>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!(
            "select ",
            columns!(),
            " from dmca_notice where ($1 = '' or standing = $1) and ($2 = '' or id < $2) order by id desc limit $3"
        );
        let (standing, before) = (standing.map_or("", Standing::as_str), before.map_or("", NoticeId::as_str));
        let rows = tx.all(sql, args![standing, before, i64::from(limit.clamp(1, PAGE_MAX))]).await?;
        rows.iter().map(filed).collect()
    }

    /// Notices whose clock has run: their tracks are to be put back now.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn notices_due(&self, now_us: i64) -> Result<Vec<Filed>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!(
            "select ",
            columns!(),
            " from dmca_notice where standing = 'waiting' and restore_from_us <= $1 order by id limit 100"
        );
        tx.all(sql, args![now_us]).await?.iter().map(filed).collect()
    }

    /// Notices whose tracks were put back since a time.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn notices_restored_since(&self, since_us: i64) -> Result<Vec<Filed>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!(
            "select ",
            columns!(),
            " from dmca_notice where standing = 'restored' and closed_us >= $1 order by id limit 100"
        );
        tx.all(sql, args![since_us]).await?.iter().map(filed).collect()
    }

    /// What was done to something, oldest first.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn audited(&self, about: &str) -> Result<Vec<Audited>> {
        let mut tx = self.begin_read().await?;
        let sql =
            "select id, at_us, actor, action, about, body from audit where about = $1 order by at_us, id limit 1000";
        let one = |row: &Row| {
            Ok(Audited {
                id: row.text("id")?,
                at_us: row.int("at_us")?,
                actor: row.text("actor")?,
                action: row.text("action")?,
                about: row.text("about")?,
                body: serde_json::from_str(&row.text("body")?).unwrap_or_default(),
            })
        };
        tx.all(sql, args![about]).await?.iter().map(one).collect()
    }
}

/// Asks the sender of a notice for what is missing (512(c)(3)(B)(ii)). A stranger names the address: it gets few of them.
async fn ask_for_the_rest(tx: &mut Tx, id: &NoticeId, notice: &Notice, now_us: i64) -> Result<()> {
    let Ok(email) = Email::decode(&notice.email) else { return Ok(()) };
    let sql = "select count(*) as n from mail where kind = 'notice-incomplete' and email = $1 and created_us > $2";
    let sent = tx.first(sql, args![email.key(), now_us - DAY_US]).await?.map_or(Ok(0), |row| row.int("n"))?;
    if sent >= ASKED_A_DAY_MAX {
        return Ok(());
    }
    let about = json!({ "notice": id, "work": notice.work, "missing": notice.missing() });
    outbox::put(tx, "notice-incomplete", email.key(), &about.to_string(), now_us).await
}

/// Mails in a day that ask one address for what is missing.
const ASKED_A_DAY_MAX: i64 = 3;
/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// Wishes for a mail to who sent a notice; nothing when that is no address.
async fn tell_sender(tx: &mut Tx, notice: &Notice, kind: &str, about: &Value, now_us: i64) -> Result<()> {
    match Email::decode(&notice.email) {
        Ok(email) => outbox::put(tx, kind, email.as_str(), &about.to_string(), now_us).await,
        Err(_) => Ok(()),
    }
}

/// Wishes for a mail to the owner of a track; nothing when that is a program.
async fn tell_owner(tx: &mut Tx, track: TrackId, kind: &str, about: &Value, now_us: i64) -> Result<()> {
    let sql = "select users.email from track join users on users.id = track.owner
               where track.id = $1 and users.email is not null";
    match tx.first(sql, args![track.as_str()]).await? {
        Some(row) => outbox::put(tx, kind, &row.text("email")?, &about.to_string(), now_us).await,
        None => Ok(()),
    }
}

/// The notice, which nobody moves before the transaction ends.
async fn hold(tx: &mut Tx, id: &NoticeId) -> Result<Option<Filed>> {
    let sql = concat!("update dmca_notice set standing = standing where id = $1 returning ", columns!());
    tx.first(sql, args![id.as_str()]).await?.map(|row| filed(&row)).transpose()
}

async fn close(tx: &mut Tx, was: Filed, to: Standing, log: (&str, Value), by: By<'_>) -> Result<Ruled> {
    if !was.standing.may_become(to) {
        return Ok(Ruled::Not(was.standing));
    }
    let sql = "update dmca_notice set standing = $2, closed_us = $3 where id = $1";
    tx.execute(sql, args![was.id.as_str(), to.as_str(), by.now_us]).await?;
    audit(tx, by, log.0, was.id.as_str(), &log.1).await?;
    Ok(done(Filed { standing: to, closed_us: Some(by.now_us), ..was }))
}

fn done(filed: Filed) -> Ruled {
    Ruled::Done(Box::new(filed))
}

fn filed(row: &Row) -> Result<Filed> {
    let standing = row.text("standing")?;
    let unreadable = |what: &str| Error::internal(format!("a notice has {what} that cannot be read"));
    let counter = row.text_or_null("counter")?.map(|text| serde_json::from_str(&text));
    Ok(Filed {
        id: row.text("id")?.parse()?,
        standing: Standing::decode(&standing).ok_or_else(|| unreadable("a standing"))?,
        track: row.text_or_null("track")?.as_deref().and_then(TrackId::decode),
        notice: serde_json::from_str(&row.text("notice")?).map_err(|cause| unreadable("a text").because(cause))?,
        counter: counter.transpose().map_err(|cause| unreadable("a counter-notice").because(cause))?,
        received_us: row.int("received_us")?,
        taken_down_us: row.int_or_null("taken_down_us")?,
        counter_us: row.int_or_null("counter_us")?,
        restore_from_us: row.int_or_null("restore_from_us")?,
        restore_by_us: row.int_or_null("restore_by_us")?,
        closed_us: row.int_or_null("closed_us")?,
    })
}
