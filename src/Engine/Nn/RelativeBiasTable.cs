namespace MimEngine.Engine.Nn;

/// <summary>Tables of relative position biases, ((2G − 1)² + 3, H), at another number of patches.</summary>
public static class RelativeBiasTable
{
    /// <summary>Rows after the grid of offsets: [cls] to patch, patch to [cls], [cls] to itself.</summary>
    public const int ClsRows = 3;

    private const double LeastRatio = 1.01, LargestRatio = 1.5, RatioError = 1e-6;

    /// <summary>
    /// The table at another grid. The known offsets are spread geometrically, 0, ±1, ±(1 + q), ±(1 + q + q²), …, so that the outermost falls on
    /// the new outermost one and near offsets keep their values; between them a bicubic interpolating spline. Rows of [cls] are kept.
    /// </summary>
    /// <param name="table">((2·from − 1)² + 3, H).</param>
    /// <returns>((2·to − 1)² + 3, H).</returns>
    /// <remarks>SimMIM utils.py remap_pretrained_keys_vit; SPEC B.5; golden 01_simmim/finetune_remap.</remarks>
    public static float[] Resize(ReadOnlySpan<float> table, int heads, int from, int to)
    {
        int side = 2 * from - 1, newSide = 2 * to - 1;
        if (table.Length != (side * side + ClsRows) * heads)
            throw new ArgumentException($"A table of {table.Length} numbers is not ({side}² + {ClsRows}, {heads}).", nameof(table));
        if (from == to) return table.ToArray();
        double[] weights = SplineWeights(Offsets(side, newSide), newSide);
        float[] resized = new float[(newSide * newSide + ClsRows) * heads];
        double[] half = new double[newSide * side];
        for (int head = 0; head < heads; head++)
        {
            // Columns first: half = W·table (newSide, side), then half·Wᵀ.
            for (int y = 0; y < newSide; y++)
                for (int x = 0; x < side; x++)
                {
                    double sum = 0;
                    for (int k = 0; k < side; k++) sum += weights[y * side + k] * table[(k * side + x) * heads + head];
                    half[y * side + x] = sum;
                }
            for (int y = 0; y < newSide; y++)
                for (int x = 0; x < newSide; x++)
                {
                    double sum = 0;
                    for (int k = 0; k < side; k++) sum += weights[x * side + k] * half[y * side + k];
                    resized[(y * newSide + x) * heads + head] = (float)sum;
                }
        }
        table[^(ClsRows * heads)..].CopyTo(resized.AsSpan(newSide * newSide * heads));
        return resized;
    }

    /// <summary>Where the known offsets lie: a geometric progression whose ratio is found by bisection.</summary>
    private static double[] Offsets(int side, int newSide)
    {
        int half = side / 2;
        double low = LeastRatio, high = LargestRatio;
        while (high - low > RatioError)
        {
            double q = (low + high) / 2;
            if ((1 - Math.Pow(q, half)) / (1 - q) > newSide / 2) high = q;
            else low = q;
        }
        double ratio = (low + high) / 2, at = 0, step = 1;
        double[] offsets = new double[side];
        for (int i = 1; i <= half; i++)
        {
            at += step;
            step *= ratio;
            (offsets[half + i], offsets[half - i]) = (at, -at);
        }
        return offsets;
    }

    /// <summary>
    /// (newSide, side): the value at offset −newSide/2 + i of the cubic spline (not-a-knot ends) that is 1 at knot k and 0 at the others. Places
    /// beyond the knots take the value at the end.
    /// </summary>
    private static double[] SplineWeights(double[] knots, int newSide)
    {
        int n = knots.Length;
        double[] weights = new double[newSide * n], curvature = Curvatures(knots);
        for (int i = 0; i < newSide; i++)
        {
            double at = Math.Clamp(i - newSide / 2, knots[0], knots[^1]);
            int right = 1;
            while (right < n - 1 && knots[right] < at) right++;
            if (n == 1)
            {
                weights[i] = 1;
                continue;
            }
            int left = right - 1;
            double h = knots[right] - knots[left], a = (knots[right] - at) / h, b = 1 - a;
            weights[i * n + left] += a;
            weights[i * n + right] += b;
            double ca = (a * a * a - a) * h * h / 6, cb = (b * b * b - b) * h * h / 6;
            for (int k = 0; k < n; k++) weights[i * n + k] += ca * curvature[left * n + k] + cb * curvature[right * n + k];
        }
        return weights;
    }

    /// <summary>(n, n): the spline's second derivative at knot i for the data that are 1 at knot k.</summary>
    private static double[] Curvatures(double[] x)
    {
        int n = x.Length;
        double[] curvature = new double[n * n];
        if (n < 3) return curvature;
        double[,] m = new double[n, 2 * n];
        for (int i = 1; i < n - 1; i++)
        {
            double before = x[i] - x[i - 1], after = x[i + 1] - x[i];
            (m[i, i - 1], m[i, i], m[i, i + 1]) = (before / 6, (before + after) / 3, after / 6);
            (m[i, n + i - 1], m[i, n + i], m[i, n + i + 1]) = (1 / before, -1 / before - 1 / after, 1 / after);
        }
        // Not-a-knot: the third derivative is continuous at the second and the last but one knot. Three knots make one parabola.
        if (n == 3) (m[0, 0], m[0, 1], m[2, 1], m[2, 2]) = (1, -1, 1, -1);
        else
            foreach ((int row, int a) in new[] { (0, 0), (n - 1, n - 3) })
            {
                double first = x[a + 1] - x[a], second = x[a + 2] - x[a + 1];
                (m[row, a], m[row, a + 1], m[row, a + 2]) = (-1 / first, 1 / first + 1 / second, -1 / second);
            }
        Eliminate(m, n);
        for (int i = 0; i < n; i++)
            for (int k = 0; k < n; k++) curvature[i * n + k] = m[i, n + k];
        return curvature;
    }

    /// <summary>Gauss–Jordan with row pivots: the right half becomes the solution.</summary>
    private static void Eliminate(double[,] m, int n)
    {
        for (int column = 0; column < n; column++)
        {
            int pivot = column;
            for (int row = column + 1; row < n; row++)
                if (Math.Abs(m[row, column]) > Math.Abs(m[pivot, column])) pivot = row;
            for (int k = 0; k < 2 * n; k++) (m[column, k], m[pivot, k]) = (m[pivot, k], m[column, k]);
            for (int row = 0; row < n; row++)
            {
                if (row == column) continue;
                double factor = m[row, column] / m[column, column];
                if (factor == 0) continue;
                for (int k = column; k < 2 * n; k++) m[row, k] -= factor * m[column, k];
            }
        }
        for (int row = 0; row < n; row++)
            for (int k = n; k < 2 * n; k++) m[row, k] /= m[row, row];
    }
}
