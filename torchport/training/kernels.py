"""SimpleConvNet's training step as six Triton kernels: conv_pool_relu, affine1_parts, head, and three that go back.

Names in capitals are constants of a launch: C, H, W of an image, FN filters of FS x FS, and so on. A name with a 2 at
its end is the next power of two, which a range must be. n is the number of images, at most BATCH.
"""

import triton
import triton.language as tl

CUT = tl.constexpr(4)  # stands for the place of a window's largest where relu has cut that off


@triton.jit
def larger(best, where, value, place: tl.constexpr):
    """The larger of two values and its place; of equal ones the first, and a NaN in any case, as in torch's pooling."""
    taken = (value > best) | (value != value)
    return tl.where(taken, value, best), tl.where(taken, place, where)


@triton.jit(do_not_specialize=["n"])
def conv_pool_relu(
    x_ptr, order_ptr, weight_ptr, bias_ptr, pooled_ptr, where_ptr, n,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, FN: tl.constexpr, FS: tl.constexpr,
    FN2: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Convolution, 2 x 2 pooling and relu, of BLOCK windows and GROUP filters; each pixel is loaded once for them."""
    PH: tl.constexpr = (H - FS + 1) // 2
    PW: tl.constexpr = (W - FS + 1) // 2
    windows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    filters = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    image, place = windows // (PH * PW), windows % (PH * PW)
    inside = image < n
    first = tl.load(order_ptr + image, mask=inside, other=0) * (C * H * W)
    window = x_ptr + (first + place // PW * (2 * W) + place % PW * 2)
    known = tl.minimum(filters, FN - 1)
    y00 = tl.zeros((GROUP, BLOCK), tl.float32) + tl.load(bias_ptr + known)[:, None]
    y01, y10, y11 = y00, y00, y00
    for c in tl.static_range(C):
        for fy in tl.static_range(FS):
            for fx in tl.static_range(FS):
                w = tl.load(weight_ptr + known * (C * FS * FS) + ((c * FS + fy) * FS + fx))[:, None]
                y00 += w * tl.load(window + ((c * H + fy) * W + fx))[None, :]
                y01 += w * tl.load(window + ((c * H + fy) * W + (fx + 1)))[None, :]
                y10 += w * tl.load(window + ((c * H + (fy + 1)) * W + fx))[None, :]
                y11 += w * tl.load(window + ((c * H + (fy + 1)) * W + (fx + 1)))[None, :]
    where = tl.zeros((GROUP, BLOCK), tl.int8)
    y00, where = larger(y00, where, y01, 1)
    y00, where = larger(y00, where, y10, 2)
    y00, where = larger(y00, where, y11, 3)
    cut = y00 <= 0
    at = image[None, :] * (FN * PH * PW) + filters[:, None] * (PH * PW) + place[None, :]
    stored = (filters < FN)[:, None] & inside[None, :]
    tl.store(pooled_ptr + at, tl.where(cut, 0.0, y00), mask=stored)
    at = windows[None, :] * FN2 + filters[:, None]
    tl.store(where_ptr + at, tl.where(cut, CUT, where).to(tl.int8), mask=stored)


@triton.jit
def product(a_ptr, b_ptr, n, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BK: tl.constexpr, a_k, b_k, in_a, in_b):
    """The product of a (ROWS, n) and b (n, COLUMNS), given pointers to their first column and row, and strides."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    k = tl.arange(0, BK)
    a = tl.load(a_ptr + k[None, :] * a_k, mask=in_a & (k < n)[None, :], other=0.0)
    b = tl.load(b_ptr + k[:, None] * b_k, mask=in_b & (k < n)[:, None], other=0.0)
    for _ in range(BK, n, BK):
        k += BK  # load the next operands while these are multiplied
        a_next = tl.load(a_ptr + k[None, :] * a_k, mask=in_a & (k < n)[None, :], other=0.0)
        b_next = tl.load(b_ptr + k[:, None] * b_k, mask=in_b & (k < n)[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
        a, b = a_next, b_next
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit(do_not_specialize=["n"])
def affine1_parts(
    pooled_ptr, transposed_ptr, parts_ptr, n,
    BATCH: tl.constexpr, FEATURES: tl.constexpr, HIDDEN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Partial sums of pooled @ transposed over BK * STEPS features: whole sums would be too few to occupy a GPU."""
    rows, columns = tl.program_id(1) * BM + tl.arange(0, BM), tl.program_id(2) * BN + tl.arange(0, BN)
    in_a, in_b = (rows < n)[:, None], (columns < HIDDEN)[None, :]
    start = tl.program_id(0) * (STEPS * BK)
    total = product(
        pooled_ptr + start + rows[:, None] * FEATURES, transposed_ptr + start * HIDDEN + columns[None, :],
        tl.minimum(STEPS * BK, FEATURES - start), BM, BN, BK, 1, HIDDEN, in_a, in_b,
    )  # fmt: skip
    at = (tl.program_id(0) * BATCH + rows[:, None]) * HIDDEN + columns[None, :]
    tl.store(parts_ptr + at, total, mask=in_a & in_b)


@triton.jit(do_not_specialize=["n"])
def head(
    parts_ptr, bias1_ptr, weight2_ptr, bias2_ptr, labels_ptr, order_ptr,
    hidden_ptr, logits_ptr, passed2_ptr, passed1_ptr, logs_ptr, n,
    PARTS: tl.constexpr, BATCH: tl.constexpr, HIDDEN: tl.constexpr, CLASSES: tl.constexpr, LOG_OFFSET: tl.constexpr,
    PARTS2: tl.constexpr, HIDDEN2: tl.constexpr, CLASSES2: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    """Sum affine1's parts for one image; relu, affine2, softmax and loss; and gradients as far as affine1's output.

    passed2 is the gradient by the logits, computed here or GIVEN. The few numbers of the softmax are float64.
    """
    image = tl.program_id(0)
    part, unit, label = tl.arange(0, PARTS2), tl.arange(0, HIDDEN2), tl.arange(0, CLASSES2)
    parts = tl.load(
        parts_ptr + (part[:, None] * BATCH + image) * HIDDEN + unit[None, :],
        mask=(part < PARTS)[:, None] & (unit < HIDDEN)[None, :],
        other=0.0,
    )
    hidden = tl.sum(parts, 0) + tl.load(bias1_ptr + unit, mask=unit < HIDDEN, other=0.0)
    hidden = tl.where(hidden <= 0, 0.0, hidden)
    weight = tl.load(
        weight2_ptr + label[:, None] * HIDDEN + unit[None, :],
        mask=(label < CLASSES)[:, None] & (unit < HIDDEN)[None, :],
        other=0.0,
    )
    known = label < CLASSES
    logits = tl.sum(weight * hidden[None, :], 1) + tl.load(bias2_ptr + label, mask=known, other=0.0)
    if GIVEN:
        passed = tl.load(passed2_ptr + image * CLASSES + label, mask=known, other=0.0)
    else:
        shifted = tl.where(known, logits - tl.max(tl.where(known, logits, float("-inf")), 0), float("-inf"))
        powers = tl.exp(shifted.to(tl.float64))
        chances = powers / tl.sum(powers, 0)
        right = label == tl.load(labels_ptr + tl.load(order_ptr + image))
        tl.store(logs_ptr + image, tl.sum(tl.where(right, tl.log(chances + LOG_OFFSET), 0.0), 0).to(tl.float32))
        passed = ((chances - right.to(tl.float64)) / n).to(tl.float32)
        tl.store(passed2_ptr + image * CLASSES + label, passed, mask=known)
    tl.store(logits_ptr + image * CLASSES + label, logits, mask=known)
    back = tl.sum(weight * passed[:, None], 0)
    tl.store(hidden_ptr + image * HIDDEN + unit, hidden, mask=unit < HIDDEN)
    tl.store(passed1_ptr + image * HIDDEN + unit, tl.where(hidden <= 0, 0.0, back), mask=unit < HIDDEN)


@triton.jit
def update(
    p_ptr, m_ptr, v_ptr, total_ptr, at, gradient, mask, rate,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPSILON: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """Update the parameters at `at` by BookAdam, add them to the totals, and return them.

    If BETA1 is None, only write the gradient into m.
    """
    p = gradient
    if BETA1 is None:
        tl.store(m_ptr + at, gradient, mask=mask)
    else:
        m = tl.load(m_ptr + at, mask=mask, other=0.0)
        v = tl.load(v_ptr + at, mask=mask, other=0.0)
        p = tl.load(p_ptr + at, mask=mask, other=0.0)
        m += (gradient - m) * (1 - BETA1)
        v += (gradient * gradient - v) * (1 - BETA2)
        p -= rate * tl.div_rn(m, tl.sqrt_rn(v) + EPSILON)
        tl.store(m_ptr + at, m, mask=mask)
        tl.store(v_ptr + at, v, mask=mask)
        tl.store(p_ptr + at, p, mask=mask)
        if SUMMED:
            tl.store(total_ptr + at, tl.load(total_ptr + at, mask=mask, other=0.0) + p, mask=mask)
    return p


@triton.jit(do_not_specialize=["n"])
def affine1_upstream(
    passed1_ptr, weight1_ptr, upstream_ptr, n,
    FEATURES: tl.constexpr, HIDDEN: tl.constexpr, FN: tl.constexpr, FN2: tl.constexpr,
    UM: tl.constexpr, UN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The gradient by pooled, for UM images and UN features, stored with a window's filters side by side."""
    features, images = tl.program_id(0) * UN + tl.arange(0, UN), tl.program_id(1) * UM + tl.arange(0, UM)
    in_a, in_b = (images < n)[:, None], (features < FEATURES)[None, :]
    total = product(
        passed1_ptr + images[:, None] * HIDDEN, weight1_ptr + features[None, :], HIDDEN,
        UM, UN, BK, 1, FEATURES, in_a, in_b,
    )  # fmt: skip
    windows = FEATURES // FN
    at = (images[:, None] * windows + (features % windows)[None, :]) * FN2 + (features // windows)[None, :]
    tl.store(upstream_ptr + at, total, mask=in_a & in_b)


@triton.jit
def affine1_step(
    block, passed1_ptr, pooled_ptr, transposed_ptr, p_ptr, m_ptr, v_ptr, total_ptr, rate_ptr, n,
    WEIGHT1: tl.constexpr, FEATURES: tl.constexpr, HIDDEN: tl.constexpr,
    WM: tl.constexpr, WN: tl.constexpr, BK: tl.constexpr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPSILON: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """Gradient and update of affine1's weight, for WM units and WN features; no later kernel of the step reads it."""
    TILES: tl.constexpr = (HIDDEN + WM - 1) // WM
    features, units = block // TILES * WN + tl.arange(0, WN), block % TILES * WM + tl.arange(0, WM)
    in_a, in_b = (units < HIDDEN)[:, None], (features < FEATURES)[None, :]
    gradient = product(
        passed1_ptr + units[:, None], pooled_ptr + features[None, :], n, WM, WN, BK, HIDDEN, FEATURES, in_a, in_b
    )
    at = WEIGHT1 + units[:, None] * FEATURES + features[None, :]
    p = update(
        p_ptr, m_ptr, v_ptr, total_ptr, at, gradient, in_a & in_b, tl.load(rate_ptr), BETA1, BETA2, EPSILON, SUMMED
    )
    if BETA1 is not None:
        tl.store(transposed_ptr + features[None, :] * HIDDEN + units[:, None], p, mask=in_a & in_b)


@triton.jit
def largest(
    window, order_ptr, upstream_ptr, where_ptr, n,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, FN: tl.constexpr, FN2: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr,
):  # fmt: skip
    """For every filter and window: the first pixel that its largest output sees, and the gradient of that output."""
    filters, image, place = tl.arange(0, FN2), window // (PH * PW), window % (PH * PW)
    inside = (image < n)[None, :] & (filters < FN)[:, None]
    at = window[None, :] * FN2 + filters[:, None]
    where = tl.load(where_ptr + at, mask=inside, other=CUT).to(tl.int32)
    passed = tl.load(upstream_ptr + at, mask=inside, other=0.0)
    first = tl.load(order_ptr + image, mask=image < n, other=0).to(tl.int32) * (C * H * W)
    corner = (first + (place // PW * W + place % PW) * 2)[None, :] + where // 2 % 2 * W + where % 2
    return corner, tl.where(where == CUT, 0.0, passed)


@triton.jit
def conv_part(
    block, x_ptr, order_ptr, upstream_ptr, where_ptr, conv_parts_ptr, n,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, FN: tl.constexpr, FS: tl.constexpr,
    FN2: tl.constexpr, TAPS2: tl.constexpr, WINDOWS: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Partial gradient by conv1's weight and bias, of WINDOWS * ROUNDS windows of pooling; only their largest count.

    Each thread takes one filter, so that all read the same few pixels. Tap C * FS * FS is the bias.
    """
    PH: tl.constexpr = (H - FS + 1) // 2
    PW: tl.constexpr = (W - FS + 1) // 2
    tap, filters = tl.arange(0, TAPS2), tl.arange(0, FN2)
    seen_at = tap // (FS * FS) * (H * W) + tap // FS % FS * W + tap % FS
    known = (tap < C * FS * FS)[None, None, :]
    total = tl.zeros((FN2, WINDOWS, TAPS2), tl.float32)
    window = block * (ROUNDS * WINDOWS) + tl.arange(0, WINDOWS)
    corner, passed = largest(window, order_ptr, upstream_ptr, where_ptr, n, C, H, W, FN, FN2, PH, PW)
    for _ in range(ROUNDS):
        window += WINDOWS  # load the next windows while these are added up
        corner_next, passed_next = largest(window, order_ptr, upstream_ptr, where_ptr, n, C, H, W, FN, FN2, PH, PW)
        seen = tl.load(x_ptr + (corner[:, :, None] + seen_at[None, None, :]), mask=known, other=1.0)
        total += seen * passed[:, :, None]
        corner, passed = corner_next, passed_next
    tl.store(conv_parts_ptr + (block * FN2 + filters[:, None]) * TAPS2 + tap[None, :], tl.sum(total, 1))


@triton.jit(do_not_specialize=["n", "rate_ptr"])
def gradients(
    x_ptr, order_ptr, upstream_ptr, where_ptr, conv_parts_ptr, passed1_ptr, pooled_ptr, transposed_ptr,
    p_ptr, m_ptr, v_ptr, total_ptr, rate_ptr, n,
    WEIGHT1: tl.constexpr, FEATURES: tl.constexpr, HIDDEN: tl.constexpr,
    WM: tl.constexpr, WN: tl.constexpr, BK: tl.constexpr,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, FN: tl.constexpr, FS: tl.constexpr,
    FN2: tl.constexpr, TAPS2: tl.constexpr, WINDOWS: tl.constexpr, ROUNDS: tl.constexpr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPSILON: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """affine1_step and conv_part in one launch, as the first is bound by arithmetic and the second by memory."""
    TILES: tl.constexpr = (FEATURES + WN - 1) // WN * ((HIDDEN + WM - 1) // WM)
    block = tl.program_id(0)
    if block < TILES:
        affine1_step(
            block, passed1_ptr, pooled_ptr, transposed_ptr, p_ptr, m_ptr, v_ptr, total_ptr, rate_ptr, n,
            WEIGHT1, FEATURES, HIDDEN, WM, WN, BK, BETA1, BETA2, EPSILON, SUMMED,
        )  # fmt: skip
    else:
        conv_part(
            block - TILES, x_ptr, order_ptr, upstream_ptr, where_ptr, conv_parts_ptr, n,
            C, H, W, FN, FS, FN2, TAPS2, WINDOWS, ROUNDS,
        )  # fmt: skip


@triton.jit(do_not_specialize=["n", "rate_ptr", "loss_ptr"])
def finish(
    conv_parts_ptr, passed2_ptr, passed1_ptr, hidden_ptr, logs_ptr,
    p_ptr, m_ptr, v_ptr, total_ptr, rate_ptr, loss_ptr, n,
    CONV_WEIGHT: tl.constexpr, CONV_BIAS: tl.constexpr, BIAS1: tl.constexpr, WEIGHT2: tl.constexpr, BIAS2: tl.constexpr,
    C: tl.constexpr, FS: tl.constexpr, FN: tl.constexpr, FN2: tl.constexpr,
    CHUNKS: tl.constexpr, HIDDEN: tl.constexpr, CLASSES: tl.constexpr,
    TAPS2: tl.constexpr, CHUNKS2: tl.constexpr, HIDDEN2: tl.constexpr, BATCH2: tl.constexpr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPSILON: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """Sum up the gradients of all other parameters, and update them; a block per filter, per class, and one more.

    That one has affine1's bias and the loss.
    """
    block, rate = tl.program_id(0), tl.load(rate_ptr)
    image, unit = tl.arange(0, BATCH2), tl.arange(0, HIDDEN2)
    mask = (image < n)[:, None] & (unit < HIDDEN)[None, :]
    if block < FN:
        part, tap = tl.arange(0, CHUNKS2), tl.arange(0, TAPS2)
        parts = tl.load(
            conv_parts_ptr + (part[:, None] * FN2 + block) * TAPS2 + tap[None, :],
            mask=(part < CHUNKS)[:, None],
            other=0.0,
        )
        at = tl.where(tap < C * FS * FS, CONV_WEIGHT + block * (C * FS * FS) + tap, CONV_BIAS + block)
        update(
            p_ptr, m_ptr, v_ptr, total_ptr, at, tl.sum(parts, 0), tap <= C * FS * FS, rate,
            BETA1, BETA2, EPSILON, SUMMED,
        )  # fmt: skip
    elif block < FN + CLASSES:
        passed = tl.load(passed2_ptr + image * CLASSES + (block - FN), mask=image < n, other=0.0)
        hidden = tl.load(hidden_ptr + image[:, None] * HIDDEN + unit[None, :], mask=mask, other=0.0)
        at = WEIGHT2 + (block - FN) * HIDDEN + unit
        gradient = tl.sum(passed[:, None] * hidden, 0)
        update(
            p_ptr, m_ptr, v_ptr, total_ptr, at, gradient, unit < HIDDEN, rate, BETA1, BETA2, EPSILON, SUMMED
        )  # fmt: skip
        at = BIAS2 + (block - FN) + unit  # unit 0's
        gradient = tl.zeros((HIDDEN2,), tl.float32) + tl.sum(passed, 0)
        update(p_ptr, m_ptr, v_ptr, total_ptr, at, gradient, unit < 1, rate, BETA1, BETA2, EPSILON, SUMMED)
    else:
        back = tl.load(passed1_ptr + image[:, None] * HIDDEN + unit[None, :], mask=mask, other=0.0)
        update(
            p_ptr, m_ptr, v_ptr, total_ptr, BIAS1 + unit, tl.sum(back, 0), unit < HIDDEN, rate,
            BETA1, BETA2, EPSILON, SUMMED,
        )  # fmt: skip
        tl.store(loss_ptr, tl.sum(tl.load(logs_ptr + image, mask=image < n, other=0.0), 0))


FORWARD = (conv_pool_relu, affine1_parts, head)
BACKWARD = (affine1_upstream, gradients, finish)
KERNELS = FORWARD + BACKWARD
