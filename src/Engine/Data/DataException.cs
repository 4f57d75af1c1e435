namespace MimEngine.Engine.Data;

/// <summary>Data that cannot be used: one sentence with the path, the numbers and what to do. Shown to the user as it is.</summary>
public sealed class DataException : Exception
{
    public DataException(string message) : base(message) { }

    public DataException(string message, Exception inner) : base(message, inner) { }
}
