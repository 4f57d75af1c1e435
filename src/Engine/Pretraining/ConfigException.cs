namespace MimEngine.Engine.Pretraining;

/// <summary>A setting that is unknown, malformed or makes no sense. The message is one sentence: which, its value, what would do.</summary>
public sealed class ConfigException(string message, Exception? inner = null) : Exception(message, inner);
