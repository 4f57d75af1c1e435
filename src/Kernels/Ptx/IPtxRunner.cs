namespace MimEngine.Kernels.Ptx;

/// <summary>A model of a machine that runs emitted kernels on the host's own memory; the tests have one.</summary>
internal interface IPtxRunner
{
    void Run(PtxKernel kernel, long groups, int slices, ReadOnlySpan<ulong> parameters);
}
