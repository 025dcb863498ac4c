package browser

import (
	"reflect"
	"testing"
	"time"
)

func TestReadVisit(t *testing.T) {
	request := func(port, host, uri, status string) string {
		return `{"level":"info","msg":"handled request","request":{"remote_port":"` + port + `","host":"` + host + `","uri":"` + uri + `"},"status":` + status + "}\n"
	}
	for _, test := range []struct {
		name, log string
		want      Visit
	}{
		{"nothing", "", Visit{}},
		{"other lines", "panic: oh\n" + `{"msg":"serving initial configuration"}`, Visit{}},
		{"a line that is still being written", request("1", "a.test", "/", "200")[:40], Visit{}},
		{"two hosts on one connection", request("1", "a.test:8443", "/", "200") + request("1", "b.test:8443", "/x", "200"),
			Visit{Connections: map[string][]string{"1": {"a.test", "b.test"}}, Statuses: map[int]int{200: 2}, Answered: map[string]int{"a.test": 1, "b.test": 1}}},
		{"asked again elsewhere", request("1", "a.test", "/", "200") + request("1", "b.test", "/", "421") + request("2", "b.test", "/", "200"),
			Visit{Connections: map[string][]string{"1": {"a.test", "b.test"}, "2": {"b.test"}}, Statuses: map[int]int{200: 2, 421: 1}, Answered: map[string]int{"a.test": 1, "b.test": 1}}},
		{"a favicon", request("1", "a.test", "/favicon.ico", "200"), Visit{}},
		{"done", request("1", "a.test", "/done", "200"), Visit{Done: true}},
		{"done, and how long it took", request("1", "a.test", "/done?load=1500", "200"), Visit{Done: true, Load: 1500 * time.Millisecond}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.want.Connections == nil {
				test.want.Connections, test.want.Statuses, test.want.Answered = map[string][]string{}, map[int]int{}, map[string]int{}
			}
			if got := ReadVisit(test.log); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
