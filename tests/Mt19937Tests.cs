using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The vectors of SPEC 0.3: what NumPy 1.24, Python and PyTorch 1.13 drew.</summary>
[TestFixture]
public class Mt19937Tests
{
    [TestCase(0u, new[] { 31, 20, 16, 30, 22, 15, 10, 2, 11, 29, 27, 35, 33, 28, 32, 8, 13, 5, 17, 14, 7, 26 })]
    [TestCase(1u, new[] { 30, 34, 28, 3, 19, 17, 21, 23, 29, 26, 27, 33, 24, 25, 4, 2, 14, 10, 32, 22, 31, 20 })]
    [TestCase(42u, new[] { 35, 13, 26, 30, 16, 31, 21, 12, 8, 17, 9, 34, 0, 4, 29, 15, 19, 5, 11, 1, 24, 2 })]
    public void NumPy_permutes_36_cells_as_the_mask_generators_saw_it(uint seed, int[] first)
        => Assert.That(new Mt19937(seed).NumPyPermutation(36).Take(22), Is.EqualTo(first));

    [Test]
    public void NumPy_draws_these_53_bit_numbers()
    {
        var random = new Mt19937(0);
        double[] drawn = [random.Uniform53(), random.Uniform53(), random.Uniform53()];
        Assert.That(drawn, Is.EqualTo(new[] { 0.5488135039273248, 0.7151893663724195, 0.6027633760716439 }));
    }

    [Test]
    public void Python_draws_these_uniform_numbers()
    {
        Mt19937 random = Mt19937.Python(0);
        double[] drawn = [random.Uniform53(.1, .5), random.Uniform53(.1, .5), random.Uniform53(.1, .5)];
        Assert.That(drawn, Is.EqualTo(new[] { 0.43776874061001925, 0.40318176117612103, 0.268228632332338 }).Within(1e-15));
    }

    [Test]
    public void Python_draws_these_integers_after_three_uniform_numbers()
    {
        Mt19937 random = Mt19937.Python(0);
        for (int i = 0; i < 3; i++) random.Uniform53();
        Assert.That(Enumerable.Range(0, 6).Select(_ => random.PythonInteger(0, 10)), Is.EqualTo(new[] { 4, 8, 7, 6, 4, 7 }));
    }

    [Test]
    public void Torch_draws_these_float32_numbers()
    {
        var random = new Mt19937(0);
        float[] expected = [0.49625658988952637f, 0.7682217955589294f, 0.08847743272781372f, 0.13203048706054688f, 0.30742281675338745f];
        Assert.That(Enumerable.Range(0, 5).Select(_ => random.TorchUniform()), Is.EqualTo(expected));
    }

    [Test]
    public void Torch_draws_this_number_in_a_range()
        => Assert.That(new Mt19937(0).TorchUniform(.67f, 1f), Is.EqualTo(0.8337646722793579f));

    [Test]
    public void Torch_permutes_ten_numbers_this_way()
        => Assert.That(new Mt19937(0).TorchPermutation(10), Is.EqualTo(new[] { 4, 1, 7, 5, 3, 9, 0, 8, 6, 2 }));

    [Test]
    public void Torch_draws_these_integers()
    {
        var random = new Mt19937(0);
        Assert.That(Enumerable.Range(0, 5).Select(_ => random.TorchInteger(33)), Is.EqualTo(new[] { 32, 18, 23, 3, 19 }));
    }
}
