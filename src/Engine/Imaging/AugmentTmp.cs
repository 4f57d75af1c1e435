using MimEngine.Kernels;
namespace MimEngine.Engine.Imaging;
public enum Interpolation : byte { Bilinear, Bicubic }
public sealed record AugmentConfig { public static AugmentConfig Resize { get; } = new(); public float CropScaleMin {get;init;} public float CropScaleMax {get;init;} public Interpolation Interpolation {get;init;} public bool Antialias {get;init;} public float HorizontalFlip {get;init;} public float VerticalFlip {get;init;} }
public sealed class Augmenter(AugmentConfig c) {
 public void Apply(RgbImage image, ref RngSequence rng, int s, Span<byte> planar) { bool flip = c.HorizontalFlip > 0 && rng.Uniform() < c.HorizontalFlip;
  float x0=0,y0=0,w=image.Width,h=image.Height; if (c.CropScaleMax>0){ float a=MathF.Sqrt(rng.Uniform(c.CropScaleMin,c.CropScaleMax)); w*=a;h*=a; x0=rng.Uniform()*(image.Width-w); y0=rng.Uniform()*(image.Height-h);} 
  for (int y=0;y<s;y++) for(int x=0;x<s;x++){ float fx=Math.Clamp(x0+(x+0.5f)*w/s-0.5f,0,image.Width-1), fy=Math.Clamp(y0+(y+0.5f)*h/s-0.5f,0,image.Height-1); int ix=(int)fx,iy=(int)fy,jx=Math.Min(ix+1,image.Width-1),jy=Math.Min(iy+1,image.Height-1); fx-=ix;fy-=iy;
   for(int k=0;k<3;k++){ float p(int yy,int xx)=>image.Pixels[(yy*image.Width+xx)*3+k]; float v=(p(iy,ix)*(1-fx)+p(iy,jx)*fx)*(1-fy)+(p(jy,ix)*(1-fx)+p(jy,jx)*fx)*fy; planar[(k*s+y)*s+(flip?s-1-x:x)]=(byte)MathF.Round(v);} } }
}
public static class Png { public static byte[] Encode(RgbImage i) { var m=new MemoryStream(); m.Write(System.Text.Encoding.ASCII.GetBytes($"P6\n{i.Width} {i.Height}\n255\n")); m.Write(i.Bytes); return m.ToArray(); } }
