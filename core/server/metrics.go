package server

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics has a registry of its own, so that a program may hold several servers.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	tokens    *prometheus.CounterVec
	inputs    *prometheus.CounterVec
	fallbacks *prometheus.CounterVec
	replays   *prometheus.CounterVec
}

func newMetrics(q *queue, e Engine) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "accel_http_requests_total",
			Help: "Requests answered. code 499: the client had gone."}, []string{"route", "method", "code", "model", "platform", "kind"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "accel_http_request_duration_seconds",
			Help:    "Time from a request's header to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}}, []string{"route", "model", "platform", "kind"}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "accel_tokens_total",
			Help: "Tokens run, special ones included."}, []string{"model", "platform", "kind"}),
		inputs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "accel_inputs_total",
			Help: "Inputs answered."}, []string{"model", "platform", "kind"}),
		fallbacks: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "accel_fallbacks_total",
			Help: "Requests that another platform answered than the first wanted one. or that another took part in. reason: died, split, or unavailable."}, []string{"model", "from", "to", "reason"}),
		replays: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "accel_replays_total",
			Help: "Deaths of a device that requests lived through, by the platform that died."}, []string{"model", "platform"}),
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	m.registry.MustRegister(m.requests, m.duration, m.tokens, m.inputs, m.fallbacks, m.replays,
		gauge("accel_requests_in_flight", "Requests taken on and not yet answered.", q.inFlight),
		gauge("accel_requests_running", "Requests at the engine.", q.atEngine),
		gauge("accel_queue_depth", "Requests that wait for a place at the engine.", q.waiting),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "accel_queue_refused_total",
			Help: "Requests answered 429."}, func() float64 { return float64(q.refused.Load()) }),
		backends{e}, residents{e}, schedulers{e}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

func (m *metrics) observe(r *http.Request, pattern string, rec *record, took time.Duration) {
	method := r.Method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodOptions:
	default:
		method = "other" // a client may send any word
	}
	var platform, kind string
	if d := rec.decision; d != nil {
		platform, kind = d.Chosen.Platform, string(d.Chosen.Kind)
		if d.Fallback() {
			from, reason := platformOf(d.First), "unavailable"
			for _, x := range d.Replays {
				if x.Platform == from {
					reason = "died"
				}
			}
			if d.Split() {
				reason = "split"
			}
			m.fallbacks.WithLabelValues(rec.model, from, platform, reason).Inc()
		}
		for _, x := range d.Replays {
			m.replays.WithLabelValues(rec.model, x.Platform).Inc()
		}
		m.tokens.WithLabelValues(rec.model, platform, kind).Add(float64(rec.tokens))
		m.inputs.WithLabelValues(rec.model, platform, kind).Add(float64(rec.inputs))
	}
	m.requests.WithLabelValues(pattern, method, strconv.Itoa(rec.status), rec.model, platform, kind).Inc()
	m.duration.WithLabelValues(pattern, rec.model, platform, kind).Observe(took.Seconds())
}

// platformOf returns the platform of a device's name, platform[:id].
func platformOf(device string) string {
	p, _, _ := strings.Cut(device, ":")
	return p
}

// backends reports the engine's processes as they are when somebody asks.
type backends struct{ engine Engine }

var (
	backendUp = prometheus.NewDesc("accel_backend_healthy",
		"1 while the backend's process is healthy.", []string{"backend"}, nil)
	backendRestarts = prometheus.NewDesc("accel_backend_restarts",
		"Restarts of the backend's process since the server began.", []string{"backend"}, nil)
)

// Describe implements prometheus.Collector.
func (b backends) Describe(ch chan<- *prometheus.Desc) {
	ch <- backendUp
	ch <- backendRestarts
}

// Collect implements prometheus.Collector.
func (b backends) Collect(ch chan<- prometheus.Metric) {
	for _, s := range b.engine.Backends() {
		up := 0.0
		if s.Healthy {
			up = 1
		}
		ch <- prometheus.MustNewConstMetric(backendUp, prometheus.GaugeValue, up, s.Name)
		ch <- prometheus.MustNewConstMetric(backendRestarts, prometheus.GaugeValue, float64(s.Restarts), s.Name)
	}
}
