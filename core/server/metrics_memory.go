package server

import "github.com/prometheus/client_golang/prometheus"

// residents reports what models hold on devices as it is when somebody asks.
type residents struct{ engine Engine }

var (
	residentBytes = prometheus.NewDesc("accel_device_resident_bytes",
		"Memory of the device that models hold, KV pools included.", []string{"device"}, nil)
	residentOffloads = prometheus.NewDesc("accel_offloads_total",
		"Components that were let go on the device to make room for others.", []string{"device"}, nil)
)

// Describe implements prometheus.Collector.
func (r residents) Describe(ch chan<- *prometheus.Desc) {
	ch <- residentBytes
	ch <- residentOffloads
}

// Collect implements prometheus.Collector.
func (r residents) Collect(ch chan<- prometheus.Metric) {
	for _, m := range r.engine.Memory() {
		ch <- prometheus.MustNewConstMetric(residentBytes, prometheus.GaugeValue, float64(m.Bytes), m.Device)
		ch <- prometheus.MustNewConstMetric(residentOffloads, prometheus.CounterValue, float64(m.Offloads), m.Device)
	}
}
