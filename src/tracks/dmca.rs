//! Notices and counter-notices under 17 USC 512, as values: what they must hold, how they move, when what was taken down
//! is put back.
//!
//! ```text
//! received ──┬─▶ taken_down ─ counter-notice ▶ waiting ─ 10 to 14 business days ▶ restored
//! incomplete ┘        │  └──── withdrawn ────────────┼──────────────────────────▶ restored
//!    └─▶ dismissed ◀──┴ received                     └─ court action ▶ upheld
//! ```
//! An incomplete notice can be taken down too: the law lets a provider act on what it knows (512(c)(1)(A)).

use serde::{Deserialize, Serialize};

use crate::base::id::sortable_id;

sortable_id!(
    /// The id of a notice: also its sender's receipt.
    NoticeId, "dmc_", "notice id", ""
);

/// How a notice stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Something that the law wants is missing, but what is meant can be told (512(c)(3)(B)(ii)).
    Incomplete,
    /// It has all six elements, and waits for a person.
    Received,
    /// The track is dark.
    TakenDown,
    /// The track's owner disputes it: the clock runs.
    Waiting,
    /// The track is back.
    Restored,
    /// A court was asked, so the track stays dark.
    Upheld,
    /// It was no valid notice.
    Dismissed,
}

impl Standing {
    /// All of them.
    pub const ALL: [Standing; 7] = [
        Standing::Incomplete,
        Standing::Received,
        Standing::TakenDown,
        Standing::Waiting,
        Standing::Restored,
        Standing::Upheld,
        Standing::Dismissed,
    ];

    /// Its name in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::Incomplete => "incomplete",
            Standing::Received => "received",
            Standing::TakenDown => "taken_down",
            Standing::Waiting => "waiting",
            Standing::Restored => "restored",
            Standing::Upheld => "upheld",
            Standing::Dismissed => "dismissed",
        }
    }

    /// The standing of this name.
    pub fn decode(text: &str) -> Option<Standing> {
        Standing::ALL.into_iter().find(|standing| standing.as_str() == text)
    }

    /// The legal moves.
    pub fn may_become(self, next: Standing) -> bool {
        use Standing::{Dismissed, Incomplete, Received, Restored, TakenDown, Upheld, Waiting};
        match self {
            Incomplete | Received => matches!(next, TakenDown | Dismissed),
            TakenDown => matches!(next, Waiting | Restored),
            Waiting => matches!(next, Restored | Upheld),
            // A court may decide for the uploader in the end.
            Upheld => next == Restored,
            Restored | Dismissed => false,
        }
    }

    /// Whether a notice keeps its track dark.
    pub fn is_dark(self) -> bool {
        matches!(self, Standing::TakenDown | Standing::Waiting | Standing::Upheld)
    }
}

/// A notice, 17 USC 512(c)(3)(A)(i)–(vi). Strangers send it: every field is bounded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notice {
    /// (i) Signature: the full name of who signs.
    pub signature: String,
    /// (ii) The work that is infringed.
    pub work: String,
    /// (iii) Where the material is: an address on this server, or a track's id.
    pub location: String,
    /// (iv) Name of the complainant.
    pub name: String,
    /// (iv) Their postal address.
    pub address: String,
    /// (iv) Their telephone.
    pub phone: String,
    /// (iv) Their mail address.
    pub email: String,
    /// (v) That they believe in good faith that the use is not authorised.
    pub good_faith_statement: bool,
    /// (vi) That it is accurate, and under penalty of perjury that they are authorised to act.
    pub sworn_statement: bool,
    /// For whom they act, when not for themselves; shown to who asks for the track.
    pub on_behalf_of: String,
}

/// A counter-notice, 17 USC 512(g)(3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Counter {
    /// (A) Signature.
    pub signature: String,
    /// (D) Name.
    pub name: String,
    /// (D) Address.
    pub address: String,
    /// (D) Telephone.
    pub phone: String,
    /// (C) Under penalty of perjury: removed by mistake or misidentification.
    pub good_faith_statement: bool,
    /// (D) Consent to the jurisdiction of the Federal District Court, and to service of process.
    pub consents_to_jurisdiction: bool,
}

/// The longest text of one field, in characters.
pub const FIELD_CHARS_MAX: usize = 2_000;

impl Notice {
    /// The elements that are missing, by the names of their fields.
    pub fn missing(&self) -> Vec<&'static str> {
        let texts = [
            ("signature", &self.signature),
            ("work", &self.work),
            ("location", &self.location),
            ("name", &self.name),
            ("address", &self.address),
            ("phone", &self.phone),
            ("email", &self.email),
        ];
        texts.into_iter().filter(|(_, text)| text.trim().is_empty()).map(|(name, _)| name).collect()
    }

    /// The first field that is too long.
    pub fn too_long(&self) -> Option<&'static str> {
        let texts = [
            ("signature", &self.signature),
            ("work", &self.work),
            ("location", &self.location),
            ("name", &self.name),
            ("address", &self.address),
            ("phone", &self.phone),
            ("email", &self.email),
            ("on_behalf_of", &self.on_behalf_of),
        ];
        texts.into_iter().find(|(_, text)| text.chars().count() > FIELD_CHARS_MAX).map(|(name, _)| name)
    }

    /// Whether somebody can be asked for what is missing: work, place and a mail address are there (512(c)(3)(B)(ii)).
    pub fn is_identifiable(&self) -> bool {
        !self.missing().iter().any(|name| matches!(*name, "work" | "location" | "email"))
    }

    /// Who demands it and under which law, for the answers of a blocked track (RFC 7725 §3): no line breaks, 200
    /// characters of their name at most.
    pub fn reason(&self) -> String {
        let whom = if self.on_behalf_of.trim().is_empty() { &self.name } else { &self.on_behalf_of };
        let whom: String = whom.chars().filter(|c| !c.is_control()).take(200).collect();
        format!("{}, 17 USC 512(c)", if whom.trim().is_empty() { "a copyright owner" } else { whom.trim() })
    }
}

impl Counter {
    /// The elements that are missing.
    pub fn missing(&self) -> Vec<&'static str> {
        let texts = [
            ("signature", !self.signature.trim().is_empty()),
            ("name", !self.name.trim().is_empty()),
            ("address", !self.address.trim().is_empty()),
            ("phone", !self.phone.trim().is_empty()),
            ("good_faith_statement", self.good_faith_statement),
            ("consents_to_jurisdiction", self.consents_to_jurisdiction),
        ];
        texts.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect()
    }

    /// Whether every field is short enough.
    pub fn fits(&self) -> bool {
        [&self.signature, &self.name, &self.address, &self.phone]
            .into_iter()
            .all(|text| text.chars().count() <= FIELD_CHARS_MAX)
    }
}

/// Put back "not less than 10, nor more than 14, business days following receipt of the counter notice"
/// (512(g)(2)(C)): not before the first instant, and before the second. The day of receipt is not counted.
pub fn restore_between(received_us: i64) -> (i64, i64) {
    let received = received_us.div_euclid(DAY_US);
    let after = |wanted: u32| {
        let (mut day, mut counted) = (received, 0);
        while counted < wanted {
            day += 1;
            counted += u32::from(is_business_day(day));
        }
        (day + 1) * DAY_US // when that day has ended
    };
    (after(10), after(14))
}

const DAY_US: i64 = 86_400_000_000;

/// Whether a day since 1970 is neither of a weekend nor a holiday of the United States (5 USC 6103), which the
/// statute leaves open: to count fewer days as business days restores later, never too early.
pub fn is_business_day(day: i64) -> bool {
    let weekday = (day + 4).rem_euclid(7); // 1970-01-01 was a Thursday; 0 is Sunday
    if weekday == 0 || weekday == 6 {
        return false;
    }
    // A holiday on Saturday is kept on Friday, one on Sunday on Monday (5 USC 6103(b)).
    !(is_holiday(day) || (weekday == 5 && is_holiday(day + 1)) || (weekday == 1 && is_holiday(day - 1)))
}

fn is_holiday(day: i64) -> bool {
    let (_, month, of_month) = crate::base::clock::civil(day);
    let weekday = (day + 4).rem_euclid(7);
    let week = (of_month - 1) / 7 + 1;
    let last_monday_of_may = month == 5 && weekday == 1 && of_month > 24;
    match (month, of_month) {
        (1, 1) | (6, 19) | (7, 4) | (11, 11) | (12, 25) => true,
        (1 | 2, _) => weekday == 1 && week == 3,
        (9, _) => weekday == 1 && week == 1,
        (10, _) => weekday == 1 && week == 2,
        (11, _) => weekday == 4 && week == 4,
        _ => last_monday_of_may,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{parse_rfc3339, rfc3339};

    fn whole() -> Notice {
        Notice {
            signature: "Ada Lovelace".into(),
            work: "Notes on the Engine".into(),
            location: "https://music.example/watch/trk_1".into(),
            name: "Ada Lovelace".into(),
            address: "12 St James's Square, London".into(),
            phone: "+44 20 0000 0000".into(),
            email: "ada@example.com".into(),
            good_faith_statement: true,
            sworn_statement: true,
            on_behalf_of: String::new(),
        }
    }

    #[test]
    fn each_statutory_element_is_asked_for_by_name() {
        assert!(whole().missing().is_empty());
        assert_eq!(Notice { phone: " ".into(), ..whole() }.missing(), ["phone"]);
        assert!(Notice { phone: String::new(), signature: String::new(), ..whole() }.is_identifiable());
        assert!(!Notice { location: String::new(), ..whole() }.is_identifiable());
        assert!(!Notice { email: String::new(), ..whole() }.is_identifiable());
        assert_eq!(Notice { work: "x".repeat(2_001), ..whole() }.too_long(), Some("work"));
        assert_eq!(whole().reason(), "Ada Lovelace, 17 USC 512(c)");
        assert_eq!(Notice { on_behalf_of: "Acme\nLtd".into(), ..whole() }.reason(), "AcmeLtd, 17 USC 512(c)");
        assert_eq!(Counter::default().missing().len(), 6);
    }

    #[test]
    fn the_legal_moves_are_these_and_no_others() {
        let legal: Vec<_> = Standing::ALL
            .into_iter()
            .flat_map(|from| Standing::ALL.into_iter().filter(move |to| from.may_become(*to)).map(move |to| (from, to)))
            .map(|(from, to)| format!("{}>{}", from.as_str(), to.as_str()))
            .collect();
        assert_eq!(
            legal,
            [
                "incomplete>taken_down",
                "incomplete>dismissed",
                "received>taken_down",
                "received>dismissed",
                "taken_down>waiting",
                "taken_down>restored",
                "waiting>restored",
                "waiting>upheld",
                "upheld>restored",
            ]
        );
        assert!(Standing::ALL.into_iter().all(|one| Standing::decode(one.as_str()) == Some(one)));
    }

    /// Calendars of 2026 and 2027 as the Office of Personnel Management prints them.
    #[test]
    fn business_days_leave_out_weekends_and_federal_holidays() {
        let closed = [
            "2026-01-01",
            "2026-01-19",
            "2026-02-16",
            "2026-05-25",
            "2026-06-19",
            "2026-07-03",
            "2026-09-07",
            "2026-10-12",
            "2026-11-11",
            "2026-11-26",
            "2026-12-25",
            "2027-07-05",
            "2027-06-18",
            "2026-11-21",
            "2026-11-22",
            "2027-12-31",
        ];
        let open = ["2026-01-02", "2026-07-06", "2026-11-27", "2026-05-18", "2026-11-23", "2026-12-24", "2027-07-06"];
        let day = |text: &str| parse_rfc3339(&format!("{text}T12:00:00Z")).unwrap().div_euclid(DAY_US);
        for text in closed {
            assert!(!is_business_day(day(text)), "{text}");
        }
        for text in open {
            assert!(is_business_day(day(text)), "{text}");
        }
    }

    #[test]
    fn what_is_disputed_comes_back_after_ten_and_before_fourteen_business_days() {
        let check = |received: &str, from: &str, by: &str| {
            let (first, last) = restore_between(parse_rfc3339(received).unwrap());
            assert_eq!((rfc3339(first).as_str(), rfc3339(last).as_str()), (from, by), "{received}");
        };
        // A Monday without holidays ahead: the tenth business day is the Monday two weeks on.
        check("2026-03-02T15:00:00Z", "2026-03-17T00:00:00.000Z", "2026-03-21T00:00:00.000Z");
        // Thanksgiving (26 November 2026) is not counted.
        check("2026-11-20T23:59:59Z", "2026-12-08T00:00:00.000Z", "2026-12-12T00:00:00.000Z");
        // Received on a Saturday.
        check("2026-03-07T10:00:00Z", "2026-03-21T00:00:00.000Z", "2026-03-27T00:00:00.000Z");
    }
}
