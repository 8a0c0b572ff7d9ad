//! Who asks, and what proves it. Pure: no storage and no HTTP; times are given.

pub mod access_token;
pub mod api_key;
pub mod email;
pub mod opaque;
pub mod password;
pub mod principal;
pub mod ring;
pub mod second_factor;
pub mod throttle;

use crate::base::id::sortable_id;

sortable_id!(
    /// The id of a person: `usr_` and 26 characters. Rows that outlive the person keep it and nothing else of them.
    UserId, "usr_", "user id", ""
);
sortable_id!(
    /// The id of a session: one login, and all refresh tokens that came of it.
    SessionId, "ses_", "session id", ""
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sortable_ids_sort_by_time_and_come_back() {
        let ids: Vec<_> = [1_000, 1_700_000_000_000_000, 1_700_000_000_001_000, i64::MAX].map(UserId::new).into();
        assert!(ids.is_sorted(), "{ids:?}");
        assert_ne!(UserId::new(5_000), UserId::new(5_000));
        for id in &ids {
            assert_eq!(UserId::decode(id.as_str()).as_ref(), Some(id));
        }
        for bad in ["", "usr_", "usr_01", "trk_01hq0000000000000000000000", "usr_01HQ0000000000000000000000"] {
            assert_eq!(UserId::decode(bad), None, "{bad}");
        }
        let error = "usr_1".parse::<UserId>().unwrap_err();
        assert_eq!(error.chain(), "\"usr_1\" is not a user id (usr_ and 26 characters)");
    }
}
