using System.Reflection;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class OpCostTests
{
    private static readonly string[] s_notOperations = [nameof(Backend.Dispose), nameof(Backend.Upload), nameof(Backend.Download),
        nameof(Backend.Synchronize)];

    [Test]
    public void Every_operation_of_the_contract_has_a_cost_under_its_own_name()
    {
        string[] operations = [.. typeof(Backend).GetMethods(BindingFlags.Public | BindingFlags.Instance | BindingFlags.DeclaredOnly)
            .Where(m => m.ReturnType == typeof(void) && m.IsVirtual).Select(m => m.Name).Except(s_notOperations)];
        MethodInfo[] costs = [.. typeof(OpCost).GetMethods(BindingFlags.Public | BindingFlags.Static | BindingFlags.DeclaredOnly)
            .Where(m => m.ReturnType == typeof(OpCost) && !m.IsSpecialName)];
        Assert.That(costs.Select(m => m.Name), Is.EquivalentTo(operations));
        foreach (MethodInfo m in costs)
        {
            object[] arguments = [.. m.GetParameters().Select(p => p.ParameterType == typeof(bool) ? true
                : p.Name == "hiddenShare" ? 0.5 : Convert.ChangeType(8, p.ParameterType))];
            var cost = (OpCost)m.Invoke(null, arguments)!;
            Assert.That(cost.Name, Is.EqualTo(m.Name));
            Assert.That(cost.Bytes, Is.Positive, m.Name);
        }
    }

    [Test]
    public void A_linear_layer_costs_two_flops_a_multiply_add_forward_and_four_backward()
    {
        Assert.That(OpCost.LinearForward(10, 20, 30).Flops, Is.EqualTo(2 * 10 * 20 * 30 + 200));
        Assert.That(OpCost.LinearBackward(10, 20, 30, bias: false).Flops, Is.EqualTo(4 * 10 * 20 * 30));
        Assert.That(OpCost.LinearForward(10, 20, 30).Bytes, Is.EqualTo(4 * (300 + 600 + 20 + 200)));
    }
}
