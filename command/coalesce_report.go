package command

import (
	"fmt"
	"io"
	"strings"
)

// shownOrigins is how many entries of ORIGIN frames are written for people.
const shownOrigins = 10

// A coalesceJSON is what --json writes. What is unknown is left out.
type coalesceJSON struct {
	Sites []siteJSON `json:"sites"`
	Pairs []pairJSON `json:"pairs"`
}

type siteJSON struct {
	URL       string    `json:"url"`
	Addresses []string  `json:"addresses"`
	Protocol  string    `json:"protocol,omitempty"`
	Names     []string  `json:"certificate_names"`
	Status    int       `json:"status,omitempty"`
	Page      *pageJSON `json:"page,omitempty"`
	Error     string    `json:"error,omitempty"`
}

type pageJSON struct {
	Location  string `json:"location,omitempty"`
	Challenge string `json:"challenge,omitempty"`
	Media     string `json:"media_type,omitempty"`
	Title     string `json:"title,omitempty"`
	Length    int    `json:"length"`
	Hash      string `json:"sha256"`
	Cut       string `json:"cut,omitempty"`
}

type pairJSON struct {
	First         string       `json:"first"`
	Second        string       `json:"second"`
	SameAddress   *bool        `json:"same_address,omitempty"`
	Covered       *bool        `json:"certificate_covers,omitempty"`
	Origin        originSet    `json:"origin,omitempty"`
	Origins       []string     `json:"origins"`
	OriginError   string       `json:"origin_error,omitempty"`
	Clients       *clientsJSON `json:"clients,omitempty"`
	Status        int          `json:"status,omitempty"`
	OwnStatus     int          `json:"own_status,omitempty"`
	Page          *pageJSON    `json:"page,omitempty"`
	Comparison    comparison   `json:"comparison,omitempty"`
	ComparisonWhy string       `json:"comparison_why,omitempty"`
	Verdict       verdict      `json:"verdict"`
	Meaning       string       `json:"meaning,omitempty"`
	Error         string       `json:"error,omitempty"`
}

type clientsJSON struct {
	Obeying  bool `json:"obeying_origin"`
	Ignoring bool `json:"ignoring_origin"`
}

func (s *survey) json() coalesceJSON {
	out := coalesceJSON{Sites: []siteJSON{}, Pairs: []pairJSON{}}
	for _, s := range s.sites {
		j := siteJSON{URL: s.target.text, Addresses: append([]string{}, s.addresses...), Protocol: s.protocol, Names: s.names(), Status: s.status}
		if s.err != nil {
			j.Error = s.err.Error()
		}
		if len(s.samples) > 0 {
			j.Page = s.samples[0].json()
		}
		out.Sites = append(out.Sites, j)
	}
	for _, p := range s.pairs {
		j := pairJSON{First: p.first.target.text, Second: p.second.target.text, Origins: append([]string{}, p.origins...), Verdict: p.verdict, Meaning: p.meaning}
		if p.badList != nil {
			j.OriginError = p.badList.Error()
		}
		if p.checked {
			j.SameAddress, j.Covered = &p.sameAddress, &p.covered
			j.Clients = &clientsJSON{p.obeying(), p.ignoring()}
			j.Status, j.OwnStatus = p.status, p.own
			if p.h2 {
				j.Origin = p.origin
			}
			if p.answered() {
				j.Page = p.page.json()
			}
			j.Comparison, j.ComparisonWhy = p.result, p.resultWhy
		}
		if p.err != nil {
			j.Error = p.err.Error()
		}
		out.Pairs = append(out.Pairs, j)
	}
	return out
}

func (p *page) json() *pageJSON {
	j := &pageJSON{Challenge: p.challenge, Media: p.media, Title: p.title(), Length: len(p.body), Hash: p.hash(), Cut: p.cut}
	if p.location != nil {
		j.Location = p.location.String()
	}
	return j
}

// names are those in the certificate.
func (s *site) names() []string {
	list := []string{}
	if s.certificate != nil {
		list = append(list, s.certificate.DNSNames...)
		for _, ip := range s.certificate.IPAddresses {
			list = append(list, ip.String())
		}
	}
	return list
}

// write writes the result for people.
func (s *survey) write(w io.Writer) {
	line := func(name, text string) { fmt.Fprintf(w, "  %-12s %s\n", name, printable(text)) }
	for _, s := range s.sites {
		fmt.Fprintln(w, s.target.text)
		if s.err != nil {
			line("failed", s.err.Error())
			continue
		}
		line("address", strings.Join(s.addresses, ", "))
		line("certificate", strings.Join(s.names(), ", "))
		line("answer", fmt.Sprintf("%s over %s", s.samples[0], s.protocol))
	}
	for _, p := range s.pairs {
		fmt.Fprintf(w, "\n%s on a connection for %s\n", p.second.target.text, p.first.target.text)
		if !p.checked {
			line("unchecked", p.err.Error())
			continue
		}
		line("address", choose(p.sameAddress, "in common", "different"))
		if p.second.addressErr != nil {
			line("", p.second.addressErr.Error())
		}
		line("certificate", choose(p.covered, "covers it", "does not cover it"))
		if p.h2 {
			line("ORIGIN", p.originText())
			if p.badList != nil {
				line("", p.badList.Error())
			}
			line("answer", p.answerText())
			if p.result != "" {
				line("page", p.resultText())
			}
		}
		line("clients", fmt.Sprintf("%s (obeying ORIGIN, as Firefox), %s (ignoring it, as Chromium)",
			choose(p.obeying(), "coalesce", "do not"), choose(p.ignoring(), "coalesce", "do not")))
		line("meaning", p.meaning)
	}
}

func (p *pair) originText() string {
	shown := strings.Join(p.origins[:min(len(p.origins), shownOrigins)], ", ")
	if more := len(p.origins) - shownOrigins; more > 0 {
		shown += fmt.Sprintf(" and %d more", more)
	}
	return map[originSet]string{
		originAbsent:    "no frame",
		originEmpty:     "an empty frame: only " + p.firstHost,
		originListed:    "lists it: " + shown,
		originNotListed: "does not list it: " + shown,
	}[p.origin]
}

func (p *pair) answerText() string {
	switch {
	case p.once:
		return "not asked for: the connection had ended"
	case p.err != nil:
		return "none: " + p.err.Error()
	}
	text := p.page.String()
	if p.own != 0 {
		text += fmt.Sprintf("; on a connection of its own %s", p.second.samples[0])
	}
	return text
}

func (p *pair) resultText() string {
	return map[comparison]string{
		pageSame: "the same page: ", pageAnother: "another page: ", pageNotComparable: "not comparable: ",
	}[p.result] + p.resultWhy
}

func choose(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}
