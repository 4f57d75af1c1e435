namespace MimEngine.Engine.Imaging;

/// <summary>A picture that cannot be read. The message is one sentence: the file, what is wrong with it, and what to do.</summary>
public sealed class ImageFormatException(string message) : Exception(message);
