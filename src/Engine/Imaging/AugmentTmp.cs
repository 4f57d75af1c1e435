namespace MimEngine.Engine.Imaging;
public enum Interpolation : byte { Bilinear, Bicubic }
public sealed record AugmentConfig { public float CropScaleMin {get;init;} public float CropScaleMax {get;init;} public Interpolation Interpolation {get;init;} public bool Antialias {get;init;} public float HorizontalFlip {get;init;} public float VerticalFlip {get;init;} }
