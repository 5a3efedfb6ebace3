"""Small MRI files with known content, shared by the reader, writer and hostile-input tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

XML = """<?xml version="1.0"?>
<mrd:ismrmrdHeader xmlns:mrd="http://www.ismrm.org/ISMRMRD">
 {extra}
 <mrd:acquisitionSystemInformation><mrd:systemFieldStrength_T>2.89</mrd:systemFieldStrength_T>
  <mrd:relativeReceiverNoiseBandwidth>{bandwidth}</mrd:relativeReceiverNoiseBandwidth></mrd:acquisitionSystemInformation>
 <mrd:experimentalConditions><mrd:H1resonanceFrequency_Hz>123000000</mrd:H1resonanceFrequency_Hz>
 </mrd:experimentalConditions>
 <mrd:encoding>
  <mrd:encodedSpace><mrd:matrixSize><mrd:x>{ex}</mrd:x><mrd:y>{ey}</mrd:y><mrd:z>{ez}</mrd:z></mrd:matrixSize>
   <mrd:fieldOfView_mm><mrd:x>{efx}</mrd:x><mrd:y>{efy}</mrd:y><mrd:z>5</mrd:z></mrd:fieldOfView_mm></mrd:encodedSpace>
  <mrd:reconSpace><mrd:matrixSize><mrd:x>{rx}</mrd:x><mrd:y>{ry}</mrd:y><mrd:z>1</mrd:z></mrd:matrixSize>
   <mrd:fieldOfView_mm><mrd:x>{rfx}</mrd:x><mrd:y>{rfy}</mrd:y><mrd:z>5</mrd:z></mrd:fieldOfView_mm></mrd:reconSpace>
  <mrd:encodingLimits>
   <mrd:kspace_encoding_step_1><mrd:minimum>0</mrd:minimum><mrd:maximum>{last}</mrd:maximum>
    <mrd:center>{centre}</mrd:center></mrd:kspace_encoding_step_1>
  </mrd:encodingLimits>
  <mrd:trajectory>{trajectory}</mrd:trajectory>
  {calibration}
 </mrd:encoding>
 <mrd:sequenceParameters><mrd:TR>3000</mrd:TR><mrd:TE>11.5</mrd:TE></mrd:sequenceParameters>
</mrd:ismrmrdHeader>"""

PHI = """<mrd:subjectInformation><mrd:patientName>CANARY^NAME</mrd:patientName>
 <mrd:patientID>CANARY-4711</mrd:patientID>
 <mrd:patientBirthdate>1901-01-01</mrd:patientBirthdate></mrd:subjectInformation>
 <mrd:studyInformation><mrd:studyDate>1999-09-09</mrd:studyDate><mrd:accessionNumber>CANARY-ACC</mrd:accessionNumber>
 <mrd:studyDescription>CANARY STUDY</mrd:studyDescription></mrd:studyInformation>
 <mrd:measurementInformation><mrd:measurementID>CANARY-MEAS</mrd:measurementID><mrd:patientPosition>HFS</mrd:patientPosition>
 <mrd:protocolName>CANARY PROTOCOL</mrd:protocolName></mrd:measurementInformation>"""


def fft2(x):
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x, axes=axes), norm="ortho"), axes=axes)


def ifft2(x):
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(x, axes=axes), norm="ortho"), axes=axes)


def coil_images(slices=2, coils=3, rows=32, columns=24, seed=0):
    """complex64 (slice, coil, row, column), an asymmetric object in the central half of the rows."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(
        np.linspace(-1, 1, rows, endpoint=False), np.linspace(-1, 1, columns, endpoint=False), indexing="ij"
    )
    image = np.exp(-(((y / 0.3) ** 2 + (x / 0.6) ** 2) ** 2)) * (1 + 0.5 * (x > 0.1) + 0.3 * (y > 0.05))
    maps = np.stack([np.exp(-((x - cx) ** 2) + 1j * (cx * y + x)) for cx in np.linspace(-1, 1, coils)])
    gain = 1 + 0.2 * np.arange(slices)
    noise = 1e-3 * (
        rng.standard_normal((slices, coils, rows, columns)) * 1j + rng.standard_normal((slices, coils, rows, columns))
    )
    return (gain[:, None, None, None] * maps * image + noise).astype(np.complex64)


def make_ismrmrd(
    path: Path,
    kspace,
    *,
    recon=None,
    mask=None,
    noise=None,
    averages=1,
    contrasts=1,
    centre_sample=None,
    first_line=0,
    drop_left=0,
    trajectory="cartesian",
    partitions=1,
    axes=None,
    origin=(10.0, -20.0, 30.0),
    gap=6.0,
    voxel=(1.0, 1.2),
    phi=False,
    extra_flags=(),
    calibration="",
    dwell=(5.0, 5.0),
    bandwidth=1.0,
    slice_numbers=None,
    coils_of_noise=None,
):
    """Write `kspace` (slice, coil, kx, ky) with the reference implementation; see the keywords for the twists.

    `drop_left` samples at the start of each readout are not acquired (asymmetric echo); `first_line` columns at the
    start are not acquired (partial Fourier), so that the counters begin at 0 there.
    """
    import ismrmrd

    slices, coils, rows, columns = kspace.shape
    height, width = recon or (rows, columns)
    axes = np.eye(3) if axes is None else axes  # columns: read, phase, slice
    text = XML.format(
        extra=PHI if phi else "", bandwidth=bandwidth,
        ex=rows, ey=columns, ez=partitions, efx=rows * voxel[0], efy=columns * voxel[1],
        rx=height, ry=width, rfx=height * voxel[0], rfy=width * voxel[1], last=columns - 1 - first_line,
        centre=columns // 2 - first_line, trajectory=trajectory, calibration=calibration,
    )  # fmt: skip
    path.unlink(missing_ok=True)
    dataset = ismrmrd.Dataset(str(path), "dataset", create_if_needed=True)
    dataset.write_xml_header(text.encode())

    def add(samples, line, index, flags=(), average=0, contrast=0, middle=None, dwell_us=5.0):
        record = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples, np.complex64))
        record.idx.kspace_encode_step_1, record.idx.slice = (
            line,
            index if slice_numbers is None else slice_numbers[index],
        )
        record.idx.average, record.idx.contrast = average, contrast
        record.center_sample = samples.shape[1] // 2 if middle is None else middle
        record.sample_time_us = dwell_us
        for name, column in zip(("read_dir", "phase_dir", "slice_dir"), np.asarray(axes).T, strict=True):
            getattr(record, name)[:] = column
        record.position[:] = np.asarray(origin) + index * gap * np.asarray(axes)[:, 2]
        for flag in flags:
            record.setFlag(flag)
        dataset.append_acquisition(record)

    if noise is not None:
        for start in range(0, noise.shape[1], 64):
            add(noise[:, start : start + 64], 0, 0, flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,), dwell_us=dwell[0])
    for flag in extra_flags:
        add(np.full((coils, rows), 1e3, np.complex64), columns // 2, 0, flags=(flag,))
    rng = np.random.default_rng(1)
    for contrast in range(contrasts):
        for average in range(averages):
            for index in range(slices):
                for column in rng.permutation(np.arange(first_line, columns)):
                    if mask is not None and not mask[column]:
                        continue
                    wiggle = (average - (averages - 1) / 2) * 0.1
                    line = kspace[index, :, drop_left:, column] * (1 + wiggle) * (1 + contrast)
                    middle = (rows // 2 if centre_sample is None else centre_sample) - drop_left
                    add(
                        line,
                        column - first_line,
                        index,
                        average=average,
                        contrast=contrast,
                        middle=middle,
                        dwell_us=dwell[1],
                    )
    dataset.close()
    return path
