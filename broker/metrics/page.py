"""The page that Prometheus reads, made of families in a thread beside the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

# 70 ms that nothing but a scrape needs: this module is imported by the first one.
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from broker.metrics.families import Distribution, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from broker.metrics.families import Family

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class _Families(Collector):
    def __init__(self, families: Sequence[Family], common: Mapping[str, str]) -> None:
        self._families = families
        self._names = list(common)
        self._values = list(common.values())

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            yield self._metric(family)

    def _metric(self, family: Family) -> Metric:
        labels = [*self._names, *family.labels]
        if family.kind is Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(family.name, family.help, labels=labels)
            for values, value in family.rows:
                assert isinstance(value, Distribution), family.name
                bounds = [*map(floatToGoString, value.bounds), "+Inf"]
                histogram.add_metric(
                    [*self._values, *values],
                    list(zip(bounds, map(float, value.cumulative), strict=True)),
                    value.sum,
                )
            return histogram
        make = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
        plain = make(family.name, family.help, labels=labels)
        for values, value in family.rows:
            assert not isinstance(value, Distribution), family.name
            plain.add_metric([*self._values, *values], value)
        return plain


def render(families: Sequence[Family], common: Mapping[str, str]) -> bytes:
    """Return the page in Prometheus' text format; blocking, for a thread.

    Args:
        families: what the node says of itself.
        common: labels that every row of them has.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families, common))
    ProcessCollector(registry=registry)  # process_*; nothing where there is no /proc
    return generate_latest(registry)
