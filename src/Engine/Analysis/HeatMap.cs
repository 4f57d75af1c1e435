namespace MimEngine.Engine.Analysis;

/// <summary>Colours of a number between 0 and 1: black over red and orange to pale yellow, brighter is more.</summary>
public static class HeatMap
{
    private static readonly (float R, float G, float B)[] s_stops =
    [
        (0, 0, 4), (51, 11, 95), (120, 28, 109), (188, 55, 84), (237, 105, 37), (252, 180, 26), (252, 255, 164),
    ];

    /// <summary>The colour of <paramref name="value"/>, clipped to [0, 1].</summary>
    public static (byte R, byte G, byte B) Color(float value)
    {
        float at = Math.Clamp(value, 0f, 1f) * (s_stops.Length - 1);
        int i = Math.Min((int)at, s_stops.Length - 2);
        float f = at - i;
        (float r, float g, float b) = (Mix(s_stops[i].R, s_stops[i + 1].R, f), Mix(s_stops[i].G, s_stops[i + 1].G, f),
            Mix(s_stops[i].B, s_stops[i + 1].B, f));
        return ((byte)MathF.Round(r), (byte)MathF.Round(g), (byte)MathF.Round(b));
    }

    private static float Mix(float a, float b, float f) => a + (b - a) * f;
}
