// Puts the player of another site into a frame, as oEmbed's html does. In: ?src=. Out: the frame.
const frame = Object.assign(document.createElement("iframe"), { src: new URLSearchParams(location.search).get("src"), width: 640, height: 180, title: "A track", allow: "autoplay" });
frame.setAttribute("sandbox", "allow-scripts allow-same-origin allow-popups");
document.body.append(frame);
