//! The keys of a bucket: from the settings, from a file that may be replaced, or from the machine's role. In: where
//! they come from. Out: keys that are good now.
//!
//! A file is looked at before every request and read again when it is another: keys are rotated by replacing it, and
//! nothing has to be restarted. Keys of a role end; new ones are asked for five minutes before, and the old ones are
//! used to their end while nobody answers.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::base::secret::Secret;
use crate::base::{Error, Kind, Result, clock, text};

/// Where keys come from.
#[derive(Clone, Debug, Default)]
pub enum Source {
    /// The options themselves.
    #[default]
    Given,
    /// A file as AWS's tools write it, and the section in it.
    File(PathBuf, String),
    /// The role of a container (ECS, EKS): a document at a URL.
    Container {
        /// The document.
        url: String,
        /// What is shown to read it.
        token: Option<Secret>,
        /// A file with that, read every time: it is replaced while we run.
        token_file: Option<PathBuf>,
    },
    /// The role of a virtual machine (EC2): its metadata service, version 2, at this URL.
    Instance(String),
}

/// The largest file or answer with keys, in bytes.
const BYTES_MAX: u64 = 64 << 10;
/// Keys that end earlier than this are replaced.
const FRESH: Duration = Duration::from_secs(300);
/// How long to wait until a service that did not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest a question may take: the service is on this machine.
const ASK_MAX: Duration = Duration::from_secs(3);

/// Gives a client its keys, request by request.
#[derive(Debug)]
pub(super) struct Provider {
    source: Source,
    given: Credentials,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    credentials: Option<Credentials>,
    /// What the file looked like: inode, length, time of modification in nanoseconds.
    seen: Option<(u64, u64, i128)>,
    /// Not asked again before.
    asked: Option<Instant>,
}

impl Provider {
    pub(super) fn new(source: Source, given: Credentials) -> Provider {
        Provider { source, given, held: Mutex::default() }
    }

    async fn keys(&self) -> Result<Credentials> {
        match &self.source {
            Source::Given => Ok(self.given.clone()),
            Source::File(path, profile) => self.file_keys(path, profile).await,
            Source::Container { .. } | Source::Instance(_) => self.role_keys().await,
        }
    }

    async fn file_keys(&self, path: &std::path::Path, profile: &str) -> Result<Credentials> {
        let mut held = self.held.lock().await;
        let seen = std::fs::metadata(path).ok().map(|file| {
            (file.ino(), file.len(), i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec()))
        });
        if let (Some(credentials), true) = (&held.credentials, seen.is_none() || seen == held.seen) {
            return Ok(credentials.clone()); // while it is being replaced it may be missing for a moment
        }
        let place = path.display();
        let read = text::read(path, BYTES_MAX).map_err(|cause| {
            Error::new(
                Kind::Unavailable,
                format!("cannot read the keys in {place}: {cause}; check store.s3.credentials_file"),
            )
        });
        let found = read.and_then(|text| {
            parse_file(&text, profile).ok_or_else(|| {
                Error::new(Kind::Unavailable, format!(
                    "{place} has no aws_access_key_id and aws_secret_access_key below [{profile}]; check store.s3.credentials_file"
                ))
            })
        });
        match (found, &held.credentials) {
            (Ok(credentials), _) => {
                if held.credentials.is_some() {
                    tracing::info!(file = %place, "the keys of the bucket were replaced");
                }
                held.seen = seen;
                held.credentials = Some(credentials.clone());
                Ok(credentials)
            }
            // Half written, perhaps: it is looked at again at the next request.
            (Err(error), Some(credentials)) => {
                tracing::warn!(error = error.chain(), "the keys of the bucket stay as they were");
                Ok(credentials.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn role_keys(&self) -> Result<Credentials> {
        let mut held = self.held.lock().await;
        let left = |credentials: &Credentials| {
            credentials.expiry().map(|end| end.duration_since(SystemTime::now()).unwrap_or_default())
        };
        let lasts = |credentials: &Credentials, least: Duration| left(credentials).is_none_or(|left| left > least);
        let recently = held.asked.is_some_and(|asked| asked.elapsed() < PAUSE);
        if let Some(credentials) = &held.credentials
            && (lasts(credentials, FRESH) || (recently && lasts(credentials, Duration::ZERO)))
        {
            return Ok(credentials.clone());
        }
        held.asked = Some(Instant::now());
        let asked = tokio::time::timeout(ASK_MAX, self.ask()).await;
        let late = || Error::new(Kind::Unavailable, format!("no answer within {} s", ASK_MAX.as_secs()));
        match asked.unwrap_or_else(|_| Err(late())) {
            Ok(credentials) => {
                held.credentials = Some(credentials.clone());
                Ok(credentials)
            }
            Err(error) => match held.credentials.clone().filter(|kept| lasts(kept, Duration::ZERO)) {
                Some(kept) => {
                    tracing::warn!(error = error.chain(), "the role's keys cannot be renewed yet");
                    Ok(kept)
                }
                None => Err(Error::new(
                    error.kind(),
                    format!("cannot get keys from the machine's role: {}; check store.s3.credentials", error.chain()),
                )),
            },
        }
    }

    async fn ask(&self) -> Result<Credentials> {
        match &self.source {
            Source::Container { url, token, token_file } => {
                let token = match (token_file, token) {
                    (Some(file), _) => {
                        let what = |cause: std::io::Error| {
                            Error::new(
                                Kind::Unavailable,
                                format!("cannot read the role's token in {}: {cause}", file.display()),
                            )
                        };
                        Some(text::read(file, BYTES_MAX).map_err(what)?.trim().to_owned())
                    }
                    (None, token) => token.as_ref().map(|token| String::from_utf8_lossy(token.expose()).into_owned()),
                };
                let headers: Vec<(&str, &str)> = token.iter().map(|token| ("authorization", token.as_str())).collect();
                parse_role(&exchange(Method::GET, url, &headers).await?)
            }
            Source::Instance(base) => {
                // IMDSv2: a session first, which a confused proxy cannot open (it takes a PUT).
                let base = base.trim_end_matches('/');
                let session = exchange(
                    Method::PUT,
                    &format!("{base}/latest/api/token"),
                    &[("x-aws-ec2-metadata-token-ttl-seconds", "300")],
                )
                .await?;
                let session = String::from_utf8_lossy(&session).trim().to_owned();
                let headers = [("x-aws-ec2-metadata-token", session.as_str())];
                let roles = format!("{base}/latest/meta-data/iam/security-credentials/");
                let role = exchange(Method::GET, &roles, &headers).await?;
                let role = String::from_utf8_lossy(&role).lines().next().unwrap_or_default().trim().to_owned();
                if role.is_empty() {
                    return Err(Error::new(Kind::Unavailable, "this machine has no role; attach an instance profile"));
                }
                parse_role(&exchange(Method::GET, &format!("{roles}{role}"), &headers).await?)
            }
            Source::Given | Source::File(..) => Ok(self.given.clone()),
        }
    }
}

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.keys().await.map_err(|error| CredentialsError::provider_error(error.chain()))
        })
    }
}

/// One question to a service on this machine: plain HTTP, one connection, a short answer.
async fn exchange(method: Method, url: &str, headers: &[(&str, &str)]) -> Result<Bytes> {
    let failed = |why: String| Error::new(Kind::Unavailable, format!("{url}: {why}"));
    let uri: Uri = url.parse().map_err(|_| failed("this is no URL".into()))?;
    let host =
        uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(|| failed("not plain http".into()))?;
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80))).await;
    let stream = stream.map_err(|cause| failed(cause.to_string()))?;
    let (mut to, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|cause| failed(cause.to_string()))?;
    let connection = tokio::spawn(connection); // ends with the exchange
    let mut request = Request::builder().method(method).uri(uri.path_and_query().map_or("/", |path| path.as_str()));
    request = request.header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|cause| failed(cause.to_string()))?;
    let answered = async {
        let answer = to.send_request(request).await.map_err(|cause| failed(cause.to_string()))?;
        if answer.status() != 200 {
            return Err(failed(format!("it answered {}", answer.status().as_u16())));
        }
        let body = Limited::new(answer.into_body(), BYTES_MAX as usize).collect().await;
        Ok(body.map_err(|cause| failed(cause.to_string()))?.to_bytes())
    };
    let answered = answered.await;
    connection.abort();
    answered
}

/// The keys below a section: `aws_access_key_id = …`.
fn parse_file(text: &str, profile: &str) -> Option<Credentials> {
    let mut inside = false;
    let (mut id, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end_matches(']').trim() == profile;
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|_| inside && !line.starts_with('#')) else { continue };
        let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        match name.trim() {
            "aws_access_key_id" => id = value,
            "aws_secret_access_key" => secret = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    Some(Credentials::new(id?, secret?, token, None, "file"))
}

/// What both services answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoleKeys {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
}

fn parse_role(document: &[u8]) -> Result<Credentials> {
    // No part of the document is said: it holds a secret.
    let unreadable = || Error::new(Kind::Unavailable, "the role's keys cannot be read");
    let keys: RoleKeys = serde_json::from_slice(document).map_err(|_| unreadable())?;
    let end = match &keys.expiration {
        Some(text) => {
            let us = clock::parse_rfc3339(text).and_then(|us| u64::try_from(us).ok());
            Some(UNIX_EPOCH + Duration::from_micros(us.ok_or_else(unreadable)?))
        }
        None => None,
    };
    Ok(Credentials::new(keys.access_key_id, keys.secret_access_key, keys.token, end, "role"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_by_section() {
        let text = "# mine\n[other]\naws_access_key_id = no\naws_secret_access_key = no\n\n[default]\n\
                    aws_access_key_id=AKIA\n aws_secret_access_key = s/e=cret \n#aws_session_token = x\n";
        let keys = parse_file(text, "default").unwrap();
        assert_eq!((keys.access_key_id(), keys.secret_access_key(), keys.session_token()), ("AKIA", "s/e=cret", None));
        assert!(parse_file(text, "third").is_none());
        assert!(parse_file("[default]\naws_access_key_id = a\n", "default").is_none(), "half a pair is none");
    }

    #[test]
    fn a_role_says_when_its_keys_end() {
        let keys = parse_role(
            br#"{"Code":"Success","AccessKeyId":"A","SecretAccessKey":"B","Token":"C","Expiration":"2030-01-01T00:00:00Z"}"#,
        )
        .unwrap();
        assert_eq!(keys.expiry(), Some(UNIX_EPOCH + Duration::from_secs(1_893_456_000)));
        let wrong = parse_role(br#"{"AccessKeyId":"A","SecretAccessKey":"hush","Expiration":"soon"}"#).unwrap_err();
        assert!(!wrong.chain().contains("hush"), "{wrong:?}");
    }
}
