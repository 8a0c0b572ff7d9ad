//! Mail to people. In: what the outbox holds. Out: mails, sent by SMTP, tried again until they are.
//!
//! What a link opens is made when its mail is, and only its hash is kept: who reads the database opens nothing. A mail
//! whose sending is in doubt is sent again with another link; both open, once each. Without SMTP, which only dev allows,
//! the log says what a mail would.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use metrics::{Counter, counter};

use crate::auth::email::Email;
use crate::auth::opaque::OpaqueToken;
use crate::base::clock::{Clock, rfc3339};
use crate::base::shutdown::{Phase, Shutdown};
use crate::base::{Error, Kind, Result, telemetry};
use crate::db::Db;
use crate::db::outbox::{Mail, Posted};
use crate::db::users::Purpose;
use crate::jobs::backoff::Backoff;
use crate::workers::supervisor::Duty;

/// How mail is sent.
pub struct Options {
    /// The server; `None` writes into the log.
    pub smtp: Option<String>,
    /// From whom.
    pub from: String,
    /// What links begin with: `https://music.example.com`.
    pub base_url: String,
    /// How often an idle sender looks for mail.
    pub poll: Duration,
}

/// How long a link that proves an address opens, in microseconds: a day.
pub const VERIFY_US: i64 = 24 * 3_600_000_000;
/// How long a link that sets another password opens: half an hour (facts §4.6).
pub const RESET_US: i64 = 30 * 60_000_000;
/// Mails taken at once.
const AT_ONCE: u32 = 8;
/// The longest a mail may take.
const TRY_MAX: Duration = Duration::from_secs(20);
/// 5 s, doubled up to an hour.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(5), most: Duration::from_secs(3_600) };

/// Where mails go.
enum Server {
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    Log,
}

/// Sends mail.
pub struct Sender {
    server: Server,
    from: Mailbox,
    options: Options,
    sent: Counter,
    failed: Counter,
}

impl Sender {
    /// With these settings.
    ///
    /// # Errors
    /// `Usage` for a server or a sender that cannot be read; passwords are not repeated.
    pub fn new(options: Options) -> Result<Sender> {
        let from = options.from.parse().map_err(|cause: lettre::address::AddressError| {
            Error::usage("mail.from cannot be read; write it like Segue <no-reply@example.com>").because(cause)
        })?;
        let server = match &options.smtp {
            None => Server::Log,
            Some(url) => Server::Smtp(transport(url)?),
        };
        let by = |outcome: &'static str| {
            let counter = counter!(telemetry::MAILS, "outcome" => outcome);
            counter.increment(0);
            counter
        };
        Ok(Sender { server, from, options, sent: by("sent"), failed: by("failed") })
    }

    async fn post(&self, db: &Db, mail: &Mail, clock: &Clock) -> Posted {
        let words = match words(db, mail, &self.options.base_url, clock).await {
            Ok(Some(words)) => words,
            Ok(None) => return Posted::Dropped,
            Err(error) => return Posted::Later(error.chain()),
        };
        let posted = match &self.server {
            Server::Log => {
                tracing::info!(
                    to = mail.email,
                    subject = words.subject,
                    "mail.smtp is unset; the mail says:\n{}",
                    words.text
                );
                Posted::Sent
            }
            Server::Smtp(server) => self.send(server, mail, words).await,
        };
        match posted {
            Posted::Sent => self.sent.increment(1),
            _ => self.failed.increment(1),
        }
        posted
    }

    async fn send(&self, server: &AsyncSmtpTransport<Tokio1Executor>, mail: &Mail, words: Words) -> Posted {
        let to: Mailbox = match mail.email.parse() {
            Ok(to) => to,
            Err(_) => return Posted::Never("the address cannot be written into a mail".into()),
        };
        let message = Message::builder()
            // The same on every try: what arrives twice is one mail to most programs (RFC 5322 §3.6.4).
            .message_id(Some(format!("<{}@{}>", mail.id, self.from.email.domain())))
            .from(self.from.clone())
            .to(to)
            .subject(words.subject)
            .header(ContentType::TEXT_PLAIN)
            .body(words.text);
        let message = match message {
            Ok(message) => message,
            Err(cause) => return Posted::Never(format!("the mail cannot be written: {cause}")),
        };
        match tokio::time::timeout(TRY_MAX, server.send(message)).await {
            Ok(Ok(_)) => Posted::Sent,
            Ok(Err(cause)) if cause.is_permanent() => Posted::Never(cause.to_string()),
            Ok(Err(cause)) => Posted::Later(cause.to_string()),
            Err(_) => Posted::Later(format!("the server did not take it within {} s", TRY_MAX.as_secs())),
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("from", &self.options.from).finish_non_exhaustive()
    }
}

/// Sends until the process drains.
pub async fn run(sender: Arc<Sender>, db: Db, clock: Clock, (duty, mut shutdown): (Duty, Shutdown)) {
    while shutdown.phase() == Phase::Running {
        let now_us = clock.unix_us();
        // Twice the time of a try for each: whoever dies in the middle leaves them to another.
        let until_us = now_us + 2 * i64::from(AT_ONCE) * TRY_MAX.as_micros() as i64;
        let due = match db.take_mails(AT_ONCE, now_us, until_us).await {
            Ok(due) => due,
            Err(error) => {
                duty.failed(&error);
                tracing::warn!(error = error.chain(), "cannot look for mail to send");
                Vec::new()
            }
        };
        let idle = due.is_empty();
        for mail in due {
            let posted = sender.post(&db, &mail, &clock).await;
            duty.ran();
            if let Posted::Later(why) | Posted::Never(why) = &posted {
                // A server's words may name the receiver; what workers say of themselves names nobody.
                duty.failed(&Error::new(Kind::Unavailable, format!("mail {} was not sent; the log says why", mail.id)));
                tracing::warn!(mail = mail.id, kind = mail.kind, why, "a mail was not sent");
            }
            if let Err(error) = db.settle_mail(&mail, &posted, BACKOFF, clock.unix_us()).await {
                tracing::warn!(error = error.chain(), "cannot write down that a mail was sent; it will be sent again");
            }
        }
        duty.ran();
        if idle {
            tokio::select! {
                () = tokio::time::sleep(sender.options.poll) => {}
                () = shutdown.reached(Phase::Draining) => {}
            }
        }
    }
}

fn transport(url: &str) -> Result<AsyncSmtpTransport<Tokio1Executor>> {
    let asked = match url.strip_prefix("smtp+plain://") {
        Some(rest) => format!("smtp://{rest}"),
        None if url.starts_with("smtp://") => format!("{url}?tls=required"),
        None => url.to_owned(),
    };
    let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(&asked).map_err(|_| {
        Error::usage("mail.smtp cannot be read; write it like smtps://user:password@mail.example.com:465")
    })?;
    Ok(builder.timeout(Some(Duration::from_secs(10))).build())
}

/// What a mail says.
struct Words {
    subject: &'static str,
    text: String,
}

/// The words of a mail, with a fresh link where it has one; `None` when there is nothing to say: nobody has this address,
/// or what it was about is over.
async fn words(db: &Db, mail: &Mail, base_url: &str, clock: &Clock) -> Result<Option<Words>> {
    let email = Email::decode(&mail.email)?;
    let about: serde_json::Value = serde_json::from_str(&mail.about).unwrap_or_default();
    let now_us = clock.unix_us();
    let link = async |page: &str, purpose: Purpose, subject: &str, valid_us: i64| -> Result<String> {
        let token = OpaqueToken::random();
        db.put_token(&token.hash(), purpose, (subject, None), now_us + valid_us, now_us).await?;
        // Behind the #: browsers keep that to themselves, so that no log and no Referer has it (ASVS 14.2.1).
        Ok(format!("{base_url}/account/{page}#{}", token.expose()))
    };
    let said = |field: &str| about[field].as_str().unwrap_or_default();
    let counter = |field: &str| about["counter"][field].as_str().unwrap_or_default();
    let ignore = "If that was not you, ignore this mail: nothing has changed.";
    Ok(Some(match mail.kind.as_str() {
        "register" => match db.user_by_email(&email).await? {
            Some(_) => Words {
                subject: "You already have an account",
                text: format!(
                    "Hello,\n\nsomebody registered with this address, but you have an account already.\n\nLog in, or ask \
                     for another password: {base_url}/account/forgot\n\n{ignore}\n"
                ),
            },
            None => {
                let Some(registration) = about["registration"].as_str() else { return Ok(None) };
                let left_us = mail.created_us + VERIFY_US - now_us;
                if left_us <= 0 {
                    return Ok(None);
                }
                let link = link("verify", Purpose::Verify, registration, left_us).await?;
                Words {
                    subject: "Is this your address?",
                    text: format!(
                        "Hello,\n\nsomebody registered with this address at {}. If it was you, follow this link within a \
                         day:\n\n{link}\n\n{ignore}\n",
                        rfc3339(mail.created_us)
                    ),
                }
            }
        },
        "reset" => match db.user_by_email(&email).await?.filter(|user| !user.disabled) {
            None => return Ok(None),
            Some(user) => {
                let link = link("reset", Purpose::Reset, user.id.as_str(), RESET_US).await?;
                Words {
                    subject: "Another password",
                    text: format!(
                        "Hello,\n\nsomebody wants to set another password for your account. If it was you, follow this \
                         link within 30 minutes:\n\n{link}\n\n{ignore}\n"
                    ),
                }
            }
        },
        "password" => Words {
            subject: "Your password was changed",
            text: format!(
                "Hello,\n\nthe password of your account was changed, and you were logged out everywhere else.\n\nIf that \
                 was not you, set another one now: {base_url}/account/forgot\n"
            ),
        },
        "factor" => Words {
            subject: "Your account asks for a code now",
            text: "Hello,\n\na second factor was added to your account: logging in asks for its codes from now on, and you \
                   were logged out everywhere else.\n\nIf that was not you, answer this mail.\n"
                .to_owned(),
        },
        "recovery" => Words {
            subject: "A recovery code was used",
            text: "Hello,\n\nsomebody logged in to your account with one of its recovery codes.\n\nIf that was not you, \
                   change your password and make new codes.\n"
                .to_owned(),
        },
        "linked" => Words {
            subject: "Another way to log in",
            text: format!(
                "Hello,\n\nyour account can now also be logged in to by {}, which vouches for your address.\n\nIf that was \
                 not you, answer this mail.\n",
                about["provider"].as_str().unwrap_or("another provider")
            ),
        },
        "factor-removed" => Words {
            subject: "Your account asks for no code any more",
            text: format!(
                "Hello,\n\nthe second factor of your account was removed, and you were logged out everywhere else.\n\nIf \
                 that was not you, set another password now: {base_url}/account/forgot\n"
            ),
        },
        "email-confirm" => match db.user_by_email(&email).await? {
            Some(_) => Words {
                subject: "You already have an account",
                text: format!(
                    "Hello,\n\nsomebody wants to move another account to this address, which has an account \
                     already.\n\n{ignore}\n"
                ),
            },
            None => {
                let token = OpaqueToken::random();
                if !db.arm_email_change(said("user"), &email, &token.hash(), now_us).await? {
                    return Ok(None);
                }
                Words {
                    subject: "Is this your new address?",
                    text: format!(
                        "Hello,\n\nsomebody wants to move their account to this address. If it was you, follow this link \
                         within a day:\n\n{base_url}/account/email#{}\n\n{ignore}\n",
                        token.expose()
                    ),
                }
            }
        },
        "email-wanted" => Words {
            subject: "Somebody wants to move your account",
            text: format!(
                "Hello,\n\nyour account is to move to another address; a link was sent there.\n\nIf that was not you, set \
                 another password now: {base_url}/account/forgot\n"
            ),
        },
        "email-changed" => Words {
            subject: "Your account has another address",
            text: "Hello,\n\nyour account has moved to another address; this one opens nothing any more.\n\nIf that was \
                   not you, answer this mail.\n"
                .to_owned(),
        },
        "export-ready" => {
            let token = OpaqueToken::random();
            if !db.arm_export(said("export"), &token.hash(), now_us).await? {
                return Ok(None);
            }
            Words {
                subject: "Everything that is here of you",
                text: format!(
                    "Hello,\n\nthe archive that you asked for is ready. Download it before {}:\n\n\
                     {base_url}/account/export#{}\n\nKeep this mail to yourself: whoever has the link can open it.\n\nIf \
                     you did not ask for it, set another password now: {base_url}/account/forgot\n",
                    about["expires_us"].as_i64().map_or_else(String::new, rfc3339),
                    token.expose()
                ),
            }
        }
        "erasure-wanted" => {
            let token = OpaqueToken::random();
            if !db.arm_erasure(said("erasure"), &token.hash()).await? {
                return Ok(None);
            }
            Words {
                subject: "Your account will be removed",
                text: format!(
                    "Hello,\n\nyour account is closed, as you asked, and everything of it will be removed after {}. This \
                     is the last mail about it.\n\nIf you want to stay, or it was not you, follow this link before \
                     then:\n\n{base_url}/account/keep#{}\n",
                    about["due_us"].as_i64().map_or_else(String::new, rfc3339),
                    token.expose()
                ),
            }
        }
        "erasure-taken-back" => Words {
            subject: "Your account stays",
            text: format!(
                "Hello,\n\nyour account stays as it was. Log in as before.\n\nIf that was not you, set another password \
                 now: {base_url}/account/forgot\n"
            ),
        },
        "notice-incomplete" => Words {
            subject: "Your notice of infringement is not complete",
            text: format!(
                "Hello,\n\nwe have your notice {} about \"{}\". The law (17 USC 512(c)(3)) also asks for: {}.\n\nPlease \
                 send it again with all of it. If you sent no notice, ignore this mail.\n",
                said("notice"),
                said("work"),
                about["missing"].as_array().into_iter().flatten().filter_map(|one| one.as_str()).collect::<Vec<_>>().join(", ")
            ),
        },
        "notice-takedown" => Words {
            subject: "Your track was taken down",
            text: format!(
                "Hello,\n\nyour track {base_url}/watch/{} was taken down after a notice of infringement ({}) by {}, about \
                 \"{}\".\n\nIf that is a mistake or a misidentification, answer this mail with a counter-notice: your \
                 signature, name, address and telephone; that you believe so in good faith, under penalty of perjury; and \
                 that you consent to the jurisdiction of the Federal District Court of your district and accept service of \
                 process from the complainant (17 USC 512(g)(3)). It is then put back after ten business days, unless the \
                 complainant goes to court.\n",
                said("track"),
                said("notice"),
                said("reason"),
                said("work")
            ),
        },
        "notice-disputed" => Words {
            subject: "A counter-notice to your notice of infringement",
            text: format!(
                "Hello,\n\nsomebody disputes your notice {} about \"{}\". Unless you tell us before {} that you have asked a \
                 court for an order, we put the material back then (17 USC 512(g)(2)(C)).\n\nThe counter-notice:\n\n\
                 Signature: {}\nName: {}\nAddress: {}\nTelephone: {}\nUnder penalty of perjury: the material was removed by \
                 mistake or misidentification.\nConsents to the jurisdiction of the Federal District Court, and accepts \
                 service of process from you.\n",
                said("notice"),
                said("work"),
                about["restore_from_us"].as_i64().map_or_else(String::new, rfc3339),
                counter("signature"),
                counter("name"),
                counter("address"),
                counter("phone")
            ),
        },
        "notice-restored" => Words {
            subject: "A track is back",
            text: format!(
                "Hello,\n\nthe track {base_url}/watch/{}, which was taken down after the notice {} about \"{}\", was put \
                 back.\n",
                said("track"),
                said("notice"),
                said("work")
            ),
        },
        "renewal-failed" => Words {
            subject: "Your subscription could not be renewed",
            text: format!(
                "Hello,\n\nthe next payment for your subscription \"{}\" failed; it is paid for until {}.\n\n{}\n",
                said("plan"),
                about["ends_us"].as_i64().map_or_else(String::new, rfc3339),
                match about["next_us"].as_i64() {
                    Some(next_us) => format!(
                        "We ask again on {}. If you want no more of it, end it at {base_url} before.",
                        rfc3339(next_us)
                    ),
                    None => "We do not ask again; to go on after that, subscribe anew.".to_owned(),
                }
            ),
        },
        kind => return Err(Error::internal(format!("a mail of the kind {kind}"))),
    }))
}
