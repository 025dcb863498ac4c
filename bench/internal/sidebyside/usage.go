package sidebyside

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

func init() { caddy.RegisterModule(usageAPI{}) }

// A Usage is what the process of a benchmarked Caddy uses, as it says itself.
type Usage struct {
	LockWait float64 `json:"lock_wait"` // s, of all goroutines since the start
	Memory   float64 `json:"memory"`    // bytes of live objects and stacks
}

// usageAPI answers GET /bench/usage on the admin API of the benchmarked Caddy, which
// is this program.
type usageAPI struct{}

func (usageAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.bench_usage", New: func() caddy.Module { return new(usageAPI) }}
}

// Routes implements caddy.AdminRouter.
func (usageAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/bench/usage", Handler: caddy.AdminHandlerFunc(serveUsage)}}
}

func serveUsage(w http.ResponseWriter, r *http.Request) error {
	if r.URL.RawQuery == "gc" {
		runtime.GC() // sync.Pool empties what it keeps in two steps
		runtime.GC()
	}
	samples := []metrics.Sample{{Name: "/sync/mutex/wait/total:seconds"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return json.NewEncoder(w).Encode(Usage{samples[0].Value.Float64(), float64(samples[1].Value.Uint64() + samples[2].Value.Uint64())})
}

// ReadUsage asks a Caddy by the address of its admin API. After a collection of
// garbage, memory is what is in use.
func ReadUsage(admin string, collect bool) (u Usage, err error) {
	url := "http://" + admin + "/bench/usage"
	if collect {
		url += "?gc"
	}
	resp, err := http.Get(url)
	if err != nil {
		return u, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return u, fmt.Errorf("reading Caddy's usage: %s", resp.Status)
	}
	return u, json.NewDecoder(resp.Body).Decode(&u)
}

// CPUTime returns the CPU time that a process has used, in clock ticks
// (proc_pid_stat(5)).
func CPUTime(pid int) (ticks int, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return user + system, err
}
