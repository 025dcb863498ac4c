package command

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/docs"
)

// TestDocs: no flag, exit code, JSON field or value of one is missing in
// docs/command.md.
func TestDocs(t *testing.T) {
	keepAlive, coalesce, found := strings.Cut(docs.Page(t, "../docs/command.md"), "\n## coalesce\n")
	if !found {
		t.Fatal("there is no section about coalesce")
	}
	fields := func(types ...reflect.Type) (names []string) {
		for _, typ := range types {
			for _, field := range reflect.VisibleFields(typ) {
				name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
				names = append(names, "`"+name+"`")
			}
		}
		return names
	}
	codes := []string{"| 0 |", "| 1 |"}
	for _, code := range []int{exitInterrupted, exitFound, exitFailed} {
		codes = append(codes, fmt.Sprintf("| %d |", code))
	}

	coalesce, check, found := strings.Cut(coalesce, "\n## check\n")
	if !found {
		t.Fatal("there is no section about check")
	}

	want := append(fields(reflect.TypeFor[keepAliveJSON](), reflect.TypeFor[announcedJSON](), reflect.TypeFor[eventJSON](), reflect.TypeFor[caddyfileJSON]()), codes...)
	for _, o := range []outcome{outcomeClosed, outcomeOpen, outcomeNotReusable, outcomeFailed, outcomeInterrupted} {
		want = append(want, "`"+string(o)+"`")
	}
	flags := regexp.MustCompile(`--[a-z-]+`)
	for _, flag := range flags.FindAllString(keepAliveCommand().Flags().FlagUsages(), -1) {
		want = append(want, "| `"+flag+"`")
	}
	missing(t, keepAlive, want)

	want = append(fields(reflect.TypeFor[coalesceJSON](), reflect.TypeFor[siteJSON](), reflect.TypeFor[pairJSON](), reflect.TypeFor[clientsJSON](), reflect.TypeFor[pageJSON]()), codes...)
	for _, v := range []verdict{verdictNotTried, verdictShared, verdictRefused, verdictContradicted, verdictWrong, verdictBroken, verdictNotComparable, verdictUnchecked} {
		want = append(want, "| `"+string(v)+"` |")
	}
	for _, c := range []comparison{pageSame, pageAnother, pageNotComparable} {
		want = append(want, "`"+string(c)+"`")
	}
	for _, o := range []originSet{originAbsent, originEmpty, originListed, originNotListed} {
		want = append(want, "`"+string(o)+"`")
	}
	// it says that the others are those of keepalive
	for _, flag := range flags.FindAllString(coalesceCommand().Flags().FlagUsages(), -1) {
		if !strings.Contains(keepAlive, "| `"+flag+"`") {
			want = append(want, "`"+flag+"`")
		}
	}
	missing(t, coalesce, want)

	want = append(fields(reflect.TypeFor[checkReport](), reflect.TypeFor[finding]()), "| 0 |", "| 1 |")
	for _, flag := range flags.FindAllString(checkCommand().Flags().FlagUsages(), -1) {
		want = append(want, "| `"+flag+"`")
	}
	missing(t, check, want)
}

func missing(t *testing.T, text string, want []string) {
	t.Helper()
	for _, words := range want {
		if !strings.Contains(text, words) {
			t.Errorf("%s is not in the docs", words)
		}
	}
}
