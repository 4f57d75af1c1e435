using System.Reflection;
using ILGPU;
using ILGPU.Backends;
using ILGPU.Backends.EntryPoints;
using ILGPU.Backends.OpenCL;
using ILGPU.Backends.PTX;
using ILGPU.Runtime.Cuda;
using ILGPU.Runtime.OpenCL;
using MimEngine.Kernels.Ptx;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>Every kernel as PTX and OpenCL C, as a driver would get it; needs no device.</summary>
internal static class Emission
{
    /// <summary>What types a generic kernel is used with.</summary>
    private static readonly Type[] s_arguments =
    [
        typeof(LinearStore), typeof(GeluStore), typeof(SlopeStore), typeof(ResidualStore), typeof(Plain), typeof(Times), typeof(TimesNormal), typeof(Hidden),
        typeof(Circle8), typeof(Circle12), typeof(Circle16),
    ];

    /// <summary>The static method that ILGPU compiles.</summary>
    public static void Entry<TK, TT>(TK kernel) where TK : struct, IKernel where TT : struct, ITile => kernel.Run<TT>();

    /// <summary>Every kernel of this assembly, generic ones with every argument their constraints allow.</summary>
    public static IEnumerable<Type> Kernels() => typeof(Emission).Assembly.GetTypes()
        .Where(t => t.IsValueType && typeof(IKernel).IsAssignableFrom(t)).OrderBy(t => t.Name, StringComparer.Ordinal)
        .SelectMany(t => !t.IsGenericTypeDefinition ? [t]
            : s_arguments.Where(a => t.GetGenericArguments()[0].GetGenericParameterConstraints().Any(c => c != typeof(ValueType) && c.IsAssignableFrom(a)))
                .Select(a => t.MakeGenericType(a)));

    public static IEnumerable<EmittedKernel> All()
    {
        using Context context = Context.Create(b => b.Optimize(OptimizationLevel.O2));
        using var ptx = new PTXBackend(context, CudaArchitecture.SM_80, CudaInstructionSet.ISA_70, null!);
        using var cl = new CLBackend(context, new CLCapabilityContext(false, false, true, false, false), CLDeviceVendor.Other, CLBackend.MinimumVersion);
        MethodInfo entry = typeof(Emission).GetMethod(nameof(Entry))!;
        foreach (Type kernel in Kernels())
        {
            string name = kernel.Name.Split('`')[0] + string.Concat(kernel.GetGenericArguments().Select(a => $"<{a.Name}>"));
            var description = EntryPointDescription.FromExplicitlyGroupedKernel(entry.MakeGenericMethod(kernel, typeof(Tile16)));
            yield return new EmittedKernel(name, "PTX", ((PTXCompiledKernel)ptx.Compile(description, default)).PTXAssembly);
            yield return new EmittedKernel(name, "OpenCL C", ((CLCompiledKernel)cl.Compile(description, default)).Source);
        }
        foreach (PtxKernel kernel in TensorKernels.All()) yield return new EmittedKernel(kernel.Name, "PTX by hand", kernel.Text);
    }
}
