package origin

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-connreuse/connreuse/internal/metrics"
)

func counterVec(name, help string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy",
		Subsystem: "origin",
		Name:      name,
		Help:      help,
	}, []string{"server"})
}

var (
	framesTotal  = counterVec("frames_total", "ORIGIN frames sent; a connection gets one, or more if its origins do not fit in one.")
	originsTotal = counterVec("advertised_origins_total", "Origins in the ORIGIN frames sent.")
	bytesTotal   = counterVec("frame_bytes_total", "Bytes of the ORIGIN frames sent, frame headers included.")
	cutTotal     = counterVec("cut_sets_total", "Connections whose origins were more than max_origins.")
)

// counters are the counters of one server, looked up once.
type counters struct {
	frames, origins, bytes, cut prometheus.Counter
}

func newCounters(reg prometheus.Registerer, server string) (*counters, error) {
	c := new(counters)
	for _, counter := range []struct {
		to  *prometheus.Counter
		vec *prometheus.CounterVec
	}{{&c.frames, framesTotal}, {&c.origins, originsTotal}, {&c.bytes, bytesTotal}, {&c.cut, cutTotal}} {
		vec, err := metrics.Register(reg, counter.vec)
		if err != nil {
			return nil, err
		}
		*counter.to = vec.WithLabelValues(server)
	}
	return c, nil
}

func (c *counters) count(f frames) {
	c.frames.Add(float64(f.count))
	c.origins.Add(float64(f.origins))
	c.bytes.Add(float64(len(f.bytes)))
	if f.cut {
		c.cut.Inc()
	}
}
