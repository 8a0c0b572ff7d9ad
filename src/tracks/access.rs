//! Who may have what of a track: the one decision that every route asks, from the playlist to the artwork.
//!
//! In: what is known of the track, who asks, what for. Out: granted and why, or the answer that refuses. The order is
//! that of control.md §2, and it is the security: a block is told to everybody and the owner too, a private track is
//! not told of at all, money is spoken of only where there is something to be seen.
//!
//! The origin does not decide: it checks tokens and blocks. So a URL that it serves is only handed out behind this.

use super::{State, Visibility};

/// What a track costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// In minor units of the currency; more than 0.
    pub price_minor: i64,
    /// ISO 4217, capital letters.
    pub currency: String,
}

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// To know of it: its page, its title, its picture, its waveform, its words.
    See,
    /// Thirty seconds, an encode of its own.
    Preview,
    /// To hear all of it, or to have it.
    Play,
}

/// What is held against a track by whoever tells the origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Nothing.
    No,
    /// A legal demand.
    Blocked,
    /// It is withdrawn or erased.
    Hidden,
}

/// What is known of a track that exists.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// How it stands.
    pub state: State,
    /// Whether strangers may know of it.
    pub visibility: Visibility,
    /// Whether it is published as soon as it can be: then its first rung may be heard while others are made.
    pub publish_when_ready: bool,
    /// Whose it is.
    pub owner: Option<&'a str>,
    /// What the origins were told.
    pub closed: Closed,
    /// What it costs; `None`: nothing.
    pub offer: Option<&'a Offer>,
    /// Whether its owner lets strangers hear thirty seconds of what they would have to pay for.
    pub preview_enabled: bool,
}

/// Who asks, and what they have shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asker<'a> {
    /// Who they are, if they said so.
    pub subject: Option<&'a str>,
    /// Whether they bought it.
    pub licence: bool,
    /// Whether they have a token by which its owner shares it.
    pub share: bool,
}

/// Why somebody may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Everybody may: caches may keep the answer.
    Public,
    /// It is theirs.
    Owner,
    /// They bought it.
    Licence,
    /// Its owner shared it with them.
    Share,
    /// Only the preview.
    Preview,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// They may.
    Granted(Ground),
    /// 404: it does not exist, or shall not be known of.
    NotFound,
    /// 451.
    Blocked,
    /// 402, with the offer: they said who they are, and have no licence.
    Payment(&'a Offer),
    /// 401, with the offer: nobody was named, and somebody with a licence may.
    Login(&'a Offer),
}

/// Decides. `None`: there is no such track.
pub fn decide<'a>(track: Option<&Facts<'a>>, asker: Asker<'_>, want: Want) -> Access<'a> {
    let Some(track) = track else { return Access::NotFound };
    if track.state == State::Deleted || track.closed == Closed::Hidden {
        return Access::NotFound;
    }
    if track.state == State::Blocked || track.closed == Closed::Blocked {
        return Access::Blocked;
    }
    if is_owner(track.owner, asker.subject) {
        return Access::Granted(Ground::Owner);
    }
    if asker.licence {
        return Access::Granted(Ground::Licence);
    }
    if asker.share {
        return Access::Granted(Ground::Share);
    }
    if track.visibility == Visibility::Private || !is_released(track) {
        return Access::NotFound;
    }
    let Some(offer) = track.offer else { return Access::Granted(Ground::Public) };
    match want {
        Want::See => Access::Granted(Ground::Public),
        Want::Preview if track.preview_enabled => Access::Granted(Ground::Preview),
        Want::Preview | Want::Play if asker.subject.is_some() => Access::Payment(offer),
        Want::Preview | Want::Play => Access::Login(offer),
    }
}

/// Whether a track is somebody's. A track without an owner is nobody's.
pub fn is_owner(owner: Option<&str>, subject: Option<&str>) -> bool {
    owner.is_some() && owner == subject
}

/// Whether its owner has let it out.
fn is_released(track: &Facts<'_>) -> bool {
    match track.state {
        State::Published | State::Unlisted => true,
        State::Uploaded | State::Processing => track.publish_when_ready,
        State::Draft | State::Ready | State::Failed | State::Blocked | State::Deleted => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: [Closed; 3] = [Closed::No, Closed::Blocked, Closed::Hidden];
    const WANTS: [Want; 3] = [Want::See, Want::Preview, Want::Play];
    const BOTH: [bool; 2] = [false, true];

    fn offer() -> Offer {
        Offer { price_minor: 990, currency: "EUR".into() }
    }

    /// Every combination of everything that counts, with the track and the asker.
    fn every(mut look: impl FnMut(&Facts<'_>, Asker<'_>, Want, Access<'_>)) -> usize {
        let priced = offer();
        let mut seen = 0;
        for state in State::ALL {
            for visibility in [Visibility::Public, Visibility::Private] {
                for closed in CLOSED {
                    for bits in 0..64 {
                        let bit = |place: u32| bits >> place & 1 == 1;
                        let facts = Facts {
                            state,
                            visibility,
                            closed,
                            publish_when_ready: bit(0),
                            owner: bit(1).then_some("usr_owner"),
                            offer: bit(2).then_some(&priced),
                            preview_enabled: bit(3),
                        };
                        for subject in [None, Some("usr_owner"), Some("usr_other")] {
                            for want in WANTS {
                                let asker = Asker { subject, licence: bit(4), share: bit(5) };
                                look(&facts, asker, want, decide(Some(&facts), asker, want));
                                seen += 1;
                            }
                        }
                    }
                }
            }
        }
        seen
    }

    /// The rules of control.md §2 one by one, each checked over every combination there is.
    #[test]
    fn no_combination_breaks_a_rule() {
        let seen = every(|track, asker, want, access| {
            let what = || format!("{track:?} {asker:?} {want:?} {access:?}");
            let owner = is_owner(track.owner, asker.subject);
            let erased = track.state == State::Deleted || track.closed == Closed::Hidden;
            let blocked = track.state == State::Blocked || track.closed == Closed::Blocked;
            // What is erased is not told of, not even as blocked.
            assert_eq!(erased, erased && access == Access::NotFound, "{}", what());
            // A block is told to everybody, the owner included, and to nobody else.
            assert_eq!(blocked && !erased, access == Access::Blocked, "{}", what());
            if erased || blocked {
                return;
            }
            let known = owner || asker.licence || asker.share;
            let open = track.visibility == Visibility::Public && is_released(track);
            // Whoever has a right has all of it; a private or unreleased track is nothing to anybody else.
            assert_eq!(!known && !open, access == Access::NotFound, "{}", what());
            match access {
                Access::Granted(Ground::Owner) => assert!(owner),
                Access::Granted(Ground::Licence) => assert!(asker.licence && !owner),
                Access::Granted(Ground::Share) => assert!(asker.share && !owner && !asker.licence),
                // Nobody hears for nothing what costs something, but for a preview that its owner allows.
                Access::Granted(Ground::Public) => assert!(!known && (track.offer.is_none() || want == Want::See)),
                Access::Granted(Ground::Preview) => {
                    assert!(!known && track.offer.is_some() && track.preview_enabled && want == Want::Preview);
                }
                // Money and logins are spoken of where they help, and with the price.
                Access::Payment(offer) => {
                    assert!(asker.subject.is_some() && track.offer == Some(offer) && want != Want::See, "{}", what());
                }
                Access::Login(offer) => {
                    assert!(asker.subject.is_none() && track.offer == Some(offer) && want != Want::See, "{}", what());
                }
                Access::NotFound | Access::Blocked => {}
            }
        });
        assert_eq!(seen, 9 * 2 * 3 * 64 * 3 * 3);
    }

    /// Adding what somebody has never takes anything from them.
    #[test]
    fn more_rights_never_open_less() {
        let granted = |access: &Access<'_>| matches!(access, Access::Granted(_));
        every(|track, asker, want, access| {
            for licence in BOTH {
                for share in BOTH {
                    let more = Asker { licence: asker.licence || licence, share: asker.share || share, ..asker };
                    assert!(!granted(&access) || granted(&decide(Some(track), more, want)));
                }
            }
            // Who may hear all of it may hear some, and see it.
            if want == Want::Play && granted(&access) {
                assert!(granted(&decide(Some(track), asker, Want::Preview)));
                assert!(granted(&decide(Some(track), asker, Want::See)));
            }
        });
    }

    #[test]
    fn the_cases_that_people_meet() {
        let priced = offer();
        let song = Facts {
            state: State::Published,
            visibility: Visibility::Public,
            publish_when_ready: true,
            owner: Some("usr_owner"),
            closed: Closed::No,
            offer: None,
            preview_enabled: false,
        };
        let check = |track: &Facts<'_>, subject: Option<&str>, want, expected: Access<'_>| {
            assert_eq!(decide(Some(track), Asker { subject, ..Asker::default() }, want), expected, "{track:?}");
        };
        check(&song, None, Want::Play, Access::Granted(Ground::Public));
        let private = Facts { visibility: Visibility::Private, ..song.clone() };
        check(&private, None, Want::See, Access::NotFound);
        check(&private, Some("usr_other"), Want::Play, Access::NotFound);
        check(&private, Some("usr_owner"), Want::Play, Access::Granted(Ground::Owner));
        let paid = Facts { offer: Some(&priced), ..song.clone() };
        check(&paid, None, Want::Play, Access::Login(&priced));
        check(&paid, Some("usr_other"), Want::Play, Access::Payment(&priced));
        check(&paid, None, Want::See, Access::Granted(Ground::Public));
        check(&paid, None, Want::Preview, Access::Login(&priced));
        let tasted = Facts { preview_enabled: true, ..paid.clone() };
        check(&tasted, None, Want::Preview, Access::Granted(Ground::Preview));
        check(&tasted, None, Want::Play, Access::Login(&priced));
        let blocked = Facts { closed: Closed::Blocked, ..private.clone() };
        check(&blocked, Some("usr_owner"), Want::Play, Access::Blocked);
        let soon = Facts { state: State::Processing, ..song.clone() };
        check(&soon, None, Want::Play, Access::Granted(Ground::Public));
        check(&Facts { publish_when_ready: false, ..soon }, None, Want::See, Access::NotFound);
        check(&Facts { owner: None, ..private }, None, Want::Play, Access::NotFound);
        assert_eq!(decide(None, Asker::default(), Want::Play), Access::NotFound);
    }
}
