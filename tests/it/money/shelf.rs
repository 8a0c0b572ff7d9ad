//! Puts things on sale, as the catalogue does, without a store.

use segue::base::id::VersionId;
use segue::db::Db;
use segue::db::money::{Claim, Request};
use segue::db::products::{self, Change, NewProduct, Product};
use segue::ledger::order::ProductId;
use segue::store::Backend;
use segue::tracks::Track;

/// A product that is new, and the track that it is for, which everybody may hear until now.
pub(crate) async fn offered(db: &Db, new: &NewProduct, request: Request<'_>, now_us: i64) -> Product {
    if let Some(track) = &new.track {
        let track = Track {
            id: track.parse().unwrap(),
            title: new.title.clone(),
            version: VersionId::from_digest(&[1; 32]),
            samples: 441_000,
            rate: 44_100,
            flac: true,
            lossless: true,
            video: false,
        };
        db.track_shows(&track, Backend::Local, None, now_us).await.unwrap();
    }
    let mut tx = db.begin().await.unwrap();
    let claim = products::create(&mut tx, new, request, now_us).await.unwrap();
    tx.commit().await.unwrap();
    let Claim::New(product) = claim else { panic!("{claim:?}") };
    product
}

/// What a seller made of a product of theirs; `None`: it is none of theirs.
pub(super) async fn changed(
    db: &Db,
    (id, seller): (&ProductId, &str),
    change: &Change,
    now_us: i64,
) -> Option<Product> {
    let mut tx = db.begin().await.unwrap();
    let product = products::change(&mut tx, id, seller, change, now_us).await.unwrap();
    tx.commit().await.unwrap();
    product
}
