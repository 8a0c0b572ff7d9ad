//! Cookies of browsers that log in here. `__Host-`: only over TLS, only this host, no subdomain may set them (RFC 6265bis
//! §4.1.3). Scripts see one of them, which opens nothing: the token that they send beside the others (CSRF).

use axum::http::{HeaderMap, HeaderValue, header};

/// The access token.
pub(super) const ACCESS: &str = "__Host-segue_access";
/// The refresh token.
pub(super) const REFRESH: &str = "__Host-segue_refresh";
/// What a page sends in `X-CSRF-Token`.
pub(super) const CSRF: &str = "__Host-segue_csrf";
/// A half login, while the second factor is asked for.
pub(super) const TICKET: &str = "__Host-segue_ticket";
/// Which browser went to a provider.
pub(super) const BROWSER: &str = "__Host-segue_provider";

/// Who may send a cookie along.
#[derive(Clone, Copy)]
pub(super) enum Site {
    /// Requests of our own pages.
    Strict,
    /// Also somebody who follows a link from another site to here.
    Lax,
}

/// The value of a cookie; `None` when there is none, or several: nobody can tell then which is ours.
pub(super) fn get<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut found = pairs.filter(|(known, _)| *known == name).map(|(_, value)| value);
    match (found.next(), found.next()) {
        (Some(value), None) => Some(value),
        _ => None,
    }
}

/// Sets a cookie for so many seconds.
pub(super) fn set(headers: &mut HeaderMap, (name, value): (&str, &str), site: Site, max_age_s: u64) {
    let site = match site {
        Site::Strict => "Strict",
        Site::Lax => "Lax",
    };
    let readable = if name == CSRF { "" } else { "; HttpOnly" };
    let cookie = format!("{name}={value}; Path=/; Secure{readable}; SameSite={site}; Max-Age={max_age_s}");
    let mut cookie = HeaderValue::try_from(cookie).expect("tokens and names are ASCII");
    cookie.set_sensitive(true);
    headers.append(header::SET_COOKIE, cookie);
}

/// Has the browser forget cookies.
pub(super) fn clear(headers: &mut HeaderMap, names: &[&str]) {
    for name in names {
        set(headers, (name, ""), Site::Strict, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_read_when_there_is_one_of_its_name() {
        let check = |sent: &[&str], expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            sent.iter().for_each(|value| {
                headers.append(header::COOKIE, HeaderValue::from_str(value).unwrap());
            });
            assert_eq!(get(&headers, ACCESS), expected, "{sent:?}");
        };
        check(&["a=1; __Host-segue_access=x.y.z; b=2"], Some("x.y.z"));
        check(&["a=1", "__Host-segue_access=x"], Some("x"));
        check(&["__Host-segue_access=x; __Host-segue_access=y"], None);
        check(&["segue_access=x"], None);
        check(&[], None);
    }

    #[test]
    fn cookies_are_of_this_host_alone_and_hidden_from_scripts() {
        let mut headers = HeaderMap::new();
        set(&mut headers, (ACCESS, "x"), Site::Strict, 600);
        set(&mut headers, (CSRF, "y"), Site::Lax, 600);
        let all: Vec<_> = headers.get_all(header::SET_COOKIE).iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(all[0], "__Host-segue_access=x; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=600");
        assert_eq!(all[1], "__Host-segue_csrf=y; Path=/; Secure; SameSite=Lax; Max-Age=600");
        clear(&mut headers, &[REFRESH]);
        assert!(headers.get_all(header::SET_COOKIE).iter().any(|v| v.to_str().unwrap().ends_with("Max-Age=0")));
    }
}
