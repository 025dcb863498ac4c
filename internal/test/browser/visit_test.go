package browser

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestReadVisit(t *testing.T) {
	request := func(port, host, uri, status string) string {
		return `{"level":"info","msg":"handled request","request":{"proto":"HTTP/2.0","remote_port":"` + port + `","host":"` + host + `","uri":"` + uri + `"},"status":` + status + "}\n"
	}
	for _, test := range []struct {
		name, log string
		want      Visit
	}{
		{"nothing", "", Visit{}},
		{"other lines", "panic: oh\n" + `{"msg":"serving initial configuration"}`, Visit{}},
		{"a line that is still being written", request("1", "a.test", "/", "200")[:40], Visit{}},
		{"two hosts on one connection", request("1", "a.test:8443", "/", "200") + request("1", "b.test:8443", "/x", "200"),
			Visit{Connections: map[string][]string{"HTTP/2.0 1": {"a.test", "b.test"}}, Statuses: map[int]int{200: 2},
				Answered: map[string]int{"a.test": 1, "b.test": 1}, Protocols: map[string]int{"HTTP/2.0": 2}}},
		{"asked again elsewhere", request("1", "a.test", "/", "200") + request("1", "b.test", "/", "421") + strings.Replace(request("1", "b.test", "/", "200"), "HTTP/2.0", "HTTP/3.0", 1),
			Visit{Connections: map[string][]string{"HTTP/2.0 1": {"a.test", "b.test"}, "HTTP/3.0 1": {"b.test"}}, Statuses: map[int]int{200: 2, 421: 1},
				Answered: map[string]int{"a.test": 1, "b.test": 1}, Protocols: map[string]int{"HTTP/2.0": 1, "HTTP/3.0": 1}, Refused: map[string]int{"HTTP/2.0": 1}}},
		{"another host's connection", `{"msg":"handled request","request":{"proto":"HTTP/2.0","remote_port":"1","host":"b.test:8443","uri":"/x","tls":{"server_name":"a.test"}},"status":200}`,
			Visit{Connections: map[string][]string{"HTTP/2.0 1": {"b.test"}}, Statuses: map[int]int{200: 1}, Answered: map[string]int{"b.test": 1},
				Protocols: map[string]int{"HTTP/2.0": 1}, Foreign: 1}},
		{"a favicon", request("1", "a.test", "/favicon.ico", "200"), Visit{}},
		{"done", request("1", "a.test", "/done", "200"), Visit{Done: true}},
		{"done, and how long it took", request("1", "a.test", "/done?load=1500", "200"), Visit{Done: true, Load: 1500 * time.Millisecond}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := ReadVisit(test.log); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestReadVisits(t *testing.T) {
	line := func(uri string) string {
		return `{"msg":"handled request","request":{"proto":"HTTP/3.0","remote_port":"1","host":"a.test","uri":"` + uri + `"},"status":200}` + "\n"
	}
	visits := ReadVisits(line("/")+line("/x?visit=2")+line("/done?visit=2&broken=3")+line("/?visit=3")+line("/?visit=x"), 2)
	if visits[0].Answered["a.test"] != 1 || visits[0].Done || visits[1].Answered["a.test"] != 1 || !visits[1].Done || visits[1].Broken != 3 {
		t.Errorf("%+v", visits)
	}
}
