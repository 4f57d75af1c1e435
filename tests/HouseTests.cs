using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class HouseTests
{
    [Test]
    public void A_house() => Assert.That(1 + 1, Is.EqualTo(2));
}
