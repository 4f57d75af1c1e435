namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public override void NormalizePatches(Tensor y, Tensor x, int patch, float eps)
    {
        int height = x.Shape.D2, width = x.Shape.D3, size = 3 * patch * patch, patches = x.Shape.D0 * (height / patch) * (width / patch);
        int grain = Math.Max(RowGrain(size), Rows.Chunks(patches, LossChunks)), chunks = Rows.Chunks(patches, grain);
        float* work = (float*)Scratch(PartialSlot, (long)chunks * size * sizeof(float));
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(patches, grain, new PatchNormRows<Lanes16>(y.F32, x.F32, work, patch, height, width, eps)); break;
            case SimdLevel.Vector256: _rows.For(patches, grain, new PatchNormRows<Lanes8>(y.F32, x.F32, work, patch, height, width, eps)); break;
            default: _rows.For(patches, grain, new PatchNormRows<Lanes1>(y.F32, x.F32, work, patch, height, width, eps)); break;
        }
    }

    /// <summary>One row is one patch; each chunk has room for one.</summary>
    private readonly struct PatchNormRows<TV>(float* y, float* x, float* work, int patch, int height, int width, float eps) : IRowKernel
        where TV : struct, ILanes<TV>
    {
        public void Run(int first, int last, int chunk)
        {
            int across = width / patch, length = height / patch * across, size = 3 * patch * patch;
            float* own = work + (long)chunk * size;
            for (int row = first; row < last; row++)
            {
                (int b, int l) = Math.DivRem(row, length);
                long corner = (long)b * 3 * height * width + (long)(l / across) * patch * width + l % across * patch;
                for (int line = 0; line < 3 * patch; line++) Lines<TV>.Copy(own + line * patch, x + At(corner, line), patch);
                (float mean, float variance) = Lines<TV>.Moments(own, size);
                TV m = TV.All(mean), r = TV.All((float)(1 / Math.Sqrt(variance * (double)size / (size - 1) + eps)));
                for (int line = 0; line < 3 * patch; line++)
                {
                    float* to = y + At(corner, line), from = own + line * patch;
                    for (int i = 0; i < patch; i += TV.Count)
                        Lines<TV>.Store((Lines<TV>.Load(from + i, patch - i) - m) * r, to + i, patch - i);
                }
            }
        }

        /// <summary>Where row line % P of channel line / P of a patch begins.</summary>
        private long At(long corner, int line) => corner + (long)(line / patch) * height * width + (long)(line % patch) * width;
    }
}
