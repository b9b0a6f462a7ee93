package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/accelhq/accel/core/schedule"
)

// schedulers reports the models that generate as they are when somebody asks.
type schedulers struct{ engine Engine }

// scheduled are the figures of a scheduler, one metric each, by model.
var scheduled = []struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*schedule.Stats) float64
}{
	figure("kv_pages", "Pages of the KV cache that can be given out.", prometheus.GaugeValue, func(s *schedule.Stats) float64 { return float64(s.Cache.Pages) }),
	figure("kv_pages_used", "Pages that sequences hold.", prometheus.GaugeValue, func(s *schedule.Stats) float64 { return float64(s.Cache.Used) }),
	figure("kv_pages_shared", "Pages that more than one sequence holds.", prometheus.GaugeValue, func(s *schedule.Stats) float64 { return float64(s.Cache.Shared) }),
	figure("kv_pages_cached", "Pages kept for their content, held by nobody.", prometheus.GaugeValue, func(s *schedule.Stats) float64 { return float64(s.Cache.Cached) }),
	figure("kv_evictions_total", "Cached pages thrown away for others.", prometheus.CounterValue, func(s *schedule.Stats) float64 { return float64(s.Cache.Evictions) }),
	figure("cross_kv_pages", "Pages of the keys and values of what encoders read, that can be given out.", prometheus.GaugeValue, func(s *schedule.Stats) float64 { return float64(s.Cross.Pages) }),
	figure("cross_kv_pages_used", "Those that sequences hold.", prometheus.GaugeValue, func(s *schedule.Stats) float64 { return float64(s.Cross.Used) }),
	figure("cross_kv_pages_shared", "Those that more than one sequence holds.", prometheus.GaugeValue, func(s *schedule.Stats) float64 { return float64(s.Cross.Shared) }),
	figure("cross_kv_pages_cached", "Those kept for their content, held by nobody.", prometheus.GaugeValue, func(s *schedule.Stats) float64 { return float64(s.Cross.Cached) }),
	figure("cross_kv_evictions_total", "Cached ones thrown away for others.", prometheus.CounterValue, func(s *schedule.Stats) float64 { return float64(s.Cross.Evictions) }),
	figure("encodings_total", "Runs of the model's encoder.", prometheus.CounterValue, func(s *schedule.Stats) float64 { return float64(s.Encodings) }),
	figure("kv_swapped_bytes", "Host memory that preempted sequences' pages take.", prometheus.GaugeValue, func(s *schedule.Stats) float64 { return float64(s.SwapBytes) }),
	figure("sequences_running", "Sequences that hold pages.", prometheus.GaugeValue, func(s *schedule.Stats) float64 { return float64(s.Running) }),
	figure("sequences_waiting", "Requests and preempted sequences that wait.", prometheus.GaugeValue, func(s *schedule.Stats) float64 { return float64(s.Waiting) }),
	figure("steps_total", "Runs of the model's decoder.", prometheus.CounterValue, func(s *schedule.Stats) float64 { return float64(s.Steps) }),
	figure("step_seconds_total", "Time in them.", prometheus.CounterValue, func(s *schedule.Stats) float64 { return s.StepSeconds }),
	figure("prefill_tokens_total", "Tokens run that were known before.", prometheus.CounterValue, func(s *schedule.Stats) float64 { return float64(s.PrefillTokens) }),
	figure("decode_tokens_total", "Tokens run that had just been drawn.", prometheus.CounterValue, func(s *schedule.Stats) float64 { return float64(s.DecodeTokens) }),
	figure("sampled_tokens_total", "Tokens drawn.", prometheus.CounterValue, func(s *schedule.Stats) float64 { return float64(s.Sampled) }),
	figure("cached_tokens_total", "Prompt tokens that the KV cache had.", prometheus.CounterValue, func(s *schedule.Stats) float64 { return float64(s.CachedTokens) }),
	figure("rests_total", "Times the model gave its device up to others.", prometheus.CounterValue, func(s *schedule.Stats) float64 { return float64(s.Rests) }),
	figure("preemptions_total", "Sequences that gave their pages up for others.", prometheus.CounterValue, func(s *schedule.Stats) float64 { return float64(s.PreemptedSwap + s.PreemptedAnew) }),
}

type figureOf = struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*schedule.Stats) float64
}

func figure(name, help string, kind prometheus.ValueType, value func(*schedule.Stats) float64) figureOf {
	return figureOf{prometheus.NewDesc("accel_"+name, help, []string{"model"}, nil), kind, value}
}

// Describe implements prometheus.Collector.
func (s schedulers) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range scheduled {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (s schedulers) Collect(ch chan<- prometheus.Metric) {
	for model, st := range s.engine.SchedulerStats() {
		for _, f := range scheduled {
			ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(&st), model)
		}
	}
}
