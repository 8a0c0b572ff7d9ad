//! Amounts: whole minor units of one currency. No fractions, no sums across currencies, no overflow.

use std::fmt;

use crate::base::{Error, Result};

/// The largest amount of one posting, in minor units: ten thousand of them fit into an `i64` with room to spare.
pub const MINOR_MAX: i64 = 1_000_000_000_000_000;

/// A currency of ISO 4217 and how many decimal places its minor unit has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency {
    /// Invariant: one of the tables below.
    code: [u8; 3],
    exponent: u8,
}

/// ISO 4217 list one by exponent, funds and metals left out.
const BY_EXPONENT: [(u8, &str); 4] = [
    (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"),
    (
        2,
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY \
         COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS \
         INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR \
         MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD \
         SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD YER ZAR ZMW",
    ),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
    (4, "CLF UYW"),
];

impl Currency {
    /// The currency of this code, in capitals.
    pub fn decode(code: &str) -> Option<Currency> {
        let bytes: [u8; 3] = code.as_bytes().try_into().ok()?;
        let (exponent, _) = BY_EXPONENT.iter().find(|(_, codes)| lists(codes.as_bytes(), bytes))?;
        Some(Currency { code: bytes, exponent: *exponent })
    }

    /// Its three letters.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).expect("the tables are ASCII")
    }

    /// Decimal places of the minor unit: 0 to 4.
    pub fn exponent(&self) -> u8 {
        self.exponent
    }

    /// Minor units with their places, without the currency's name: `12.34`, `-0.05`.
    pub fn written(&self, minor: i64) -> String {
        let (sign, minor) = (if minor < 0 { "-" } else { "" }, minor.unsigned_abs());
        let (places, unit) = (usize::from(self.exponent), 10u64.pow(u32::from(self.exponent)));
        match places {
            0 => format!("{sign}{minor}"),
            _ => format!("{sign}{}.{:0places$}", minor / unit, minor % unit),
        }
    }
}

/// Whether a list has a code: each is three letters and a space, and they are in order. Every row that holds an amount is
/// read with this.
fn lists(codes: &[u8], code: [u8; 3]) -> bool {
    let (mut low, mut high) = (0, codes.len().div_ceil(4));
    while low < high {
        let middle = usize::midpoint(low, high);
        match codes[4 * middle..4 * middle + 3].cmp(&code) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    false
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Some money: at least one minor unit, at most `MINOR_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Invariant: 1 to `MINOR_MAX`.
    minor: i64,
    currency: Currency,
}

impl Amount {
    /// So many minor units.
    ///
    /// # Errors
    /// `Invalid` when it is not positive or above `MINOR_MAX`.
    pub fn new(minor: i64, currency: Currency) -> Result<Amount> {
        if (1..=MINOR_MAX).contains(&minor) {
            return Ok(Amount { minor, currency });
        }
        Err(Error::invalid(format!("an amount has 1 to {MINOR_MAX} minor units, not {minor} {currency}")))
    }

    /// In minor units.
    pub fn minor(&self) -> i64 {
        self.minor
    }

    /// Of which currency.
    pub fn currency(&self) -> Currency {
        self.currency
    }
}

/// `12.34 USD`, `5 JPY`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.currency.written(self.minor), self.currency)
    }
}

/// Splits `total` minor units in proportion to `weights`, to the last unit: what rounding down leaves goes to the
/// largest remainders, of equal ones to the first (the method of Hamilton). All parts are nothing when `total` or
/// every weight is.
pub fn allocate(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let share = |weight: &u64| u128::from(total) * u128::from(*weight);
    let mut parts: Vec<u64> = weights.iter().map(|weight| (share(weight) / sum) as u64).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|at| std::cmp::Reverse(share(&weights[*at]) % sum)); // stable: the first of equal ones
    let left = total - parts.iter().sum::<u64>();
    by_remainder.iter().take(left as usize).for_each(|at| parts[*at] += 1);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amount(minor: i64, code: &str) -> String {
        Amount::new(minor, Currency::decode(code).unwrap()).unwrap().to_string()
    }

    #[test]
    fn amounts_are_written_with_the_places_of_their_currency() {
        assert_eq!(amount(1234, "USD"), "12.34 USD");
        assert_eq!(amount(5, "EUR"), "0.05 EUR");
        assert_eq!(amount(5, "JPY"), "5 JPY");
        assert_eq!(amount(1_000, "KWD"), "1.000 KWD");
        assert_eq!(amount(1, "CLF"), "0.0001 CLF");
        assert_eq!(Currency::decode("USD").unwrap().written(-105), "-1.05");
    }

    #[test]
    fn what_is_no_currency_and_no_amount_is_refused() {
        for code in ["usd", "US", "USDD", "", "XXX", "U D", "B C"] {
            assert_eq!(Currency::decode(code), None, "{code}");
        }
        let usd = Currency::decode("USD").unwrap();
        for minor in [0, -1, i64::MIN, MINOR_MAX + 1, i64::MAX] {
            assert!(Amount::new(minor, usd).is_err(), "{minor}");
        }
        assert!(Amount::new(MINOR_MAX, usd).is_ok());
    }

    #[test]
    fn every_listed_currency_is_there_once() {
        let all: Vec<&str> = BY_EXPONENT.iter().flat_map(|(_, codes)| codes.split(' ')).collect();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all.iter().all(|code| Currency::decode(code).is_some_and(|known| known.code() == *code)));
    }

    #[test]
    fn a_split_gives_the_rest_to_the_largest_remainders() {
        assert_eq!(allocate(100, &[1, 1, 1]), [34, 33, 33]);
        assert_eq!(allocate(1000, &[9, 1]), [900, 100]);
        assert_eq!(allocate(5, &[3, 7]), [2, 3]); // 1.5 and 3.5: equal remainders, the first wins
        assert_eq!(allocate(1, &[0, 5, 5]), [0, 1, 0]);
        assert_eq!(allocate(7, &[0, 0]), [0, 0]);
        assert_eq!(allocate(7, &[]), [0u64; 0]);
        assert_eq!(allocate(u64::MAX, &[u64::MAX, u64::MAX]), [u64::MAX / 2 + 1, u64::MAX / 2]);
    }

    proptest! {
        #[test]
        fn the_parts_of_a_split_sum_to_the_whole_and_are_off_by_less_than_one(
            total in 0u64..1_000_000_000_000,
            weights in prop::collection::vec(0u64..1_000_000, 1..12),
        ) {
            let parts = allocate(total, &weights);
            let sum: u64 = weights.iter().sum();
            prop_assert_eq!(parts.iter().sum::<u64>(), if sum == 0 { 0 } else { total });
            for (part, weight) in parts.iter().zip(&weights) {
                let exact = if sum == 0 { 0.0 } else { total as f64 * *weight as f64 / sum as f64 };
                prop_assert!((*part as f64 - exact).abs() < 1.001, "{} of {}", part, exact);
            }
        }
    }
}
