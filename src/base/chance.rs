//! Random bytes of ids and pauses: the operating system's; in a simulation those of a seed, so that its story can be told
//! again to the last id. What has to be unguessable (keys, tokens, passwords) does not come from here.

#[cfg(feature = "control")]
tokio::task_local! {
    /// Where the sequence of a simulation is.
    static SEED: std::cell::Cell<u64>;
}

/// So many random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut random = [0; N];
    #[cfg(feature = "control")]
    if SEED.try_with(|seed| random.chunks_mut(8).for_each(|chunk| fill(seed, chunk))).is_ok() {
        return random;
    }
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    random
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[cfg(feature = "control")]
fn fill(seed: &std::cell::Cell<u64>, chunk: &mut [u8]) {
    seed.set(seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
    let mut z = seed.get();
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
}

/// Does `work` with the random bytes of a seed. What it spawns has the operating system's.
#[cfg(feature = "control")]
pub async fn seeded<T>(seed: u64, work: impl Future<Output = T>) -> T {
    SEED.scope(std::cell::Cell::new(seed), work).await
}

#[cfg(all(test, feature = "control"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_seed_decides_every_byte_and_without_one_nobody_does() {
        let three = async || [bytes::<10>(), bytes::<10>(), bytes::<10>()];
        let (first, again, other) = (seeded(1, three()).await, seeded(1, three()).await, seeded(2, three()).await);
        assert_eq!(first, again);
        assert!(first != other && first[0] != first[1] && first[0][..2] != first[0][8..]);
        assert_ne!(bytes::<10>(), bytes::<10>());
    }
}
