"""The certificate: how wrong is each sampler, measured against posteriors that are known.

`run.certify` measures every registered method on the references of `references`, with the metrics of `metrics` and the
calibration tests of `calibration`; `claims` turns what a method says of itself into gates that can fail; `table` stores
the result.
"""
