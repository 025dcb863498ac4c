package browser

import (
	"encoding/json"
	"fmt"
	"strings"
)

// ImageSite is what a site's block in a Caddyfile says that has a page, /page, with so
// many images of each of the hosts, and that has such images. The page says when its
// images are there, or broken, and how long that took, and then visits itself again,
// until it was visited so many times. It begins with /page?visit=1.
func ImageSite(hosts []string, images, visits int) string {
	return fmt.Sprintf(`header Cache-Control no-store
	handle /page {
		header Content-Type text/html
		respond <<PAGE
			%s
			PAGE
	}
	header /image-* Content-Type image/svg+xml
	respond /image-* <<SVG
		<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"/>
		SVG
	respond ok`, strings.ReplaceAll(selfVisiting(hosts, images, visits), "\n", "\n\t\t\t"))
}

func selfVisiting(hosts []string, images, visits int) string {
	list, err := json.Marshal(hosts)
	if err != nil {
		panic(err) // strings always can
	}
	return fmt.Sprintf(`<!doctype html><body><script>
const visit = Number(new URLSearchParams(location.search).get("visit"));
let broken = 0;
const images = [];
for (let n = 0; n < %d; n++)
	for (const host of %s)
		images.push(new Promise(done => {
			const image = new Image();
			image.onload = done;
			image.onerror = () => { broken++; done(); };
			image.src = "https://" + host + ":" + location.port + "/image-" + n + "?visit=" + visit;
			document.body.append(image);
		}));
Promise.all(images).then(async () => {
	const load = Math.round(performance.now());
	for (let told = false, tries = 0; !told && tries < 5; tries++)
		try {
			await fetch("/done?visit=" + visit + "&broken=" + broken + "&load=" + load, {method: "POST"});
			told = true;
		} catch {} // a browser may give up after 421s
	if (visit < %d) setTimeout(() => location = "/page?visit=" + (visit + 1), 300);
});
</script>`, images, list, visits)
}
