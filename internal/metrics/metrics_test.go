package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func counter(name string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: "A test counter."})
}

func TestRegister(t *testing.T) {
	reg := prometheus.NewRegistry()
	first := counter("same_total")

	got, err := Register(reg, first)
	if err != nil || got != first {
		t.Fatalf("first registration = %v, %v; want the collector itself", got, err)
	}
	got, err = Register(reg, counter("same_total"))
	if err != nil || got != first {
		t.Errorf("second registration = %v, %v; want the first collector", got, err)
	}

	t.Run("the next config has a registry of its own", func(t *testing.T) {
		got, err := Register(prometheus.NewRegistry(), first)
		if err != nil || got != first {
			t.Errorf("= %v, %v; want the collector itself", got, err)
		}
	})
	t.Run("same name, other type", func(t *testing.T) {
		gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "same_total", Help: "A test counter."}) //nolint:promlinter // a name that is taken
		_, err := Register(reg, gauge)
		if err == nil || !strings.Contains(err.Error(), "belongs to") {
			t.Errorf("error = %v, want one that names the clash", err)
		}
	})
	t.Run("same name, other labels", func(t *testing.T) {
		vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "same_total", Help: "Another."}, []string{"a"})
		if _, err := Register(reg, vec); err == nil {
			t.Error("no error, want the registry's")
		}
	})
}
