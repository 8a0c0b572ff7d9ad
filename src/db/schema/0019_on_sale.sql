-- A track that is on sale costs what the cheapest licence for it costs: the row of the track is what every way to it asks.
-- Until now what was sold of a track and what it cost were two things, and one without a price of its own was free for everybody.
-- A preview is one wish, too: of the product or of the track, whoever said yes. What is deleted is not sold.

update track set
  price_minor = (select l.price_minor from product p join product_licence l on l.product_id = p.id
    where p.track = track.id and p.active = 1 order by l.price_minor, p.id limit 1),
  currency = (select p.currency from product p join product_licence l on l.product_id = p.id
    where p.track = track.id and p.active = 1 order by l.price_minor, p.id limit 1)
where state <> 'deleted'
  and id in (select p.track from product p join product_licence l on l.product_id = p.id where p.active = 1);
update track set preview_enabled = 1
where preview_enabled = 0 and state <> 'deleted'
  and id in (select track from product where active = 1 and preview_enabled = 1);
update product set preview_enabled = 1
where preview_enabled = 0 and track in (select id from track where preview_enabled = 1);
update product set active = 0
where active = 1 and track in (select id from track where state = 'deleted');
